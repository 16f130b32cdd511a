"""P5: a resume passes over broken files with one warning, and never over all of them in silence."""

import itertools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from manager_cases import LIKE, at
from verdict import Verdict

import fnopt
from fnopt.errors import CheckpointError, CheckpointWarning, NoUsableCheckpointError

FILES = 4
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
    "header flipped": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "cut": lambda data: data[: len(data) // 2],
    "grown": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "text": lambda data: b"step: 3\n",
    "a torch file": lambda data: b"PK\x03\x04" + data,
}


def passed_over() -> Verdict:
    """Every choice of broken files among four, with every kind of damage; what restore, latest and best make of it."""
    verdict = Verdict()
    for kind, size in itertools.product(DAMAGE, range(FILES + 1)):
        for broken in itertools.combinations(range(1, FILES + 1), size):
            with tempfile.TemporaryDirectory(dir=_memory()) as folder:
                with fnopt.CheckpointManager(folder, keep=FILES) as manager:
                    paths = {position: manager.save(at(position), metric=-position) for position in range(1, FILES + 1)}
                    for position in broken:
                        paths[position].write_bytes(DAMAGE[kind](paths[position].read_bytes()))
                with fnopt.CheckpointManager(folder, keep=FILES) as manager:
                    _judge(verdict, kind, manager, paths, set(broken))
    return verdict


def _judge(
    verdict: Verdict, kind: str, manager: fnopt.CheckpointManager, paths: dict[int, Path], broken: set[int]
) -> None:
    good = [position for position in paths if position not in broken]
    newer = [position for position in paths if not good or position > max(good)]
    uses = {
        "restore": lambda: manager.restore(LIKE) == at(max(good, default=0)),
        "latest": lambda: manager.latest() == paths.get(max(good, default=0)),
        "best": lambda: manager.best() == paths.get(max(good, default=0)),
    }
    for use, is_right in uses.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                right = is_right() and bool(good)
            except NoUsableCheckpointError as error:
                right = not good and all(any(path.name in text for text in error.problems) for path in paths.values())
            except CheckpointError:
                right = False
        told = [str(warning.message) for warning in caught]
        named = newer if good else []
        # one whose header nobody can read might be newer than all, whatever its name says: it may be named as well
        right = right and len(told) <= 1 and all(told and paths[position].name in told[0] for position in named)
        verdict.check(right, f"{use} with {sorted(broken)} {kind}: {told}")
    for position in broken:
        verdict.check(_is_refused(manager, paths[position]), f"{kind}: the path of {position} was not refused")


def _is_refused(manager: fnopt.CheckpointManager, path: Path) -> bool:
    """An explicit path is that file or an error; without a digest, a flipped letter may be another environment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            manager.restore(LIKE, path)
        except CheckpointError:
            return True
    return False


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
