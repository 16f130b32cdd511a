"""P2 and P18: a power failure at every call of a run of saves, with everything that it may leave on the disk."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import attrs
from disk import Image, Op, Recording, images
from manager_cases import LIKE, at
from verdict import Verdict

import fnopt
from fnopt.checkpoint.fs import Fs
from fnopt.checkpoint.process import current
from fnopt.errors import CheckpointError

DEAD = "4194305"  # no pid is as high: who wrote the files is no more


class NoSync(Fs):
    """The real disk, which need not be safe: what reads the images is no part of what is tested."""

    def fsync(self, fd: int) -> None:
        pass

    def fsync_folder(self, folder: Path) -> None:
        pass


def managed(keep: int, asynchronous: bool = False, saves: int = 6) -> Verdict:
    """A new manager and some saves, of which the second is the best: after each crash `restore` gives the last
    acknowledged save or the one after it, and there are min(keep, acknowledged) good files at least.
    """
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        recording = Recording(Path(folder))
        with fnopt.CheckpointManager(folder, keep=keep, asynchronous=asynchronous, fs=recording) as manager:
            for position in range(1, saves + 1):
                recording.mark("begin")
                manager.save(at(position), metric=float(abs(position - 2)))
                manager.latest()  # waits for an asynchronous one
                recording.mark("acknowledge")
    return _crashed(recording.ops, lambda image, ops: _judge_run(image, ops, keep))


def one_file() -> Verdict:
    """`save_checkpoint` over an old file: after each crash the path is the old file or the new one, to the bit."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        recording = Recording(Path(folder))
        for position in (1, 2):
            recording.mark("begin")
            fnopt.save_checkpoint(Path(folder) / "last", at(position), fs=recording)
            recording.mark("acknowledge")
    return _crashed(recording.ops, _judge_file)


def restarted() -> Verdict:
    """A second crash, while the next start sweeps what the first one left, loses nothing either."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        recording = Recording(Path(folder))
        manager = fnopt.CheckpointManager(folder, keep=1, fs=recording)
        for position in (1, 2):
            recording.mark("begin")
            manager.save(at(position))
            recording.mark("acknowledge")
        manager.close()
        placed = max(place for place, op in enumerate(recording.ops) if op.call == "replace")
        before = recording.ops[: placed + 1]  # the new file has its name, and the old one is still there
        marks = [op for op in before if op.call in ("begin", "acknowledge")]
        verdict = Verdict()
        for image in images(before):
            base, start = _recorded_start(image)
            ops = [*marks, *base, *start]
            verdict += _crashed(ops, lambda image, ops: _judge_run(image, ops, 1), len(marks) + len(base))
    return verdict


def _recorded_start(image: Image) -> tuple[list[Op], list[Op]]:
    """A folder as calls that are safe by now, and the calls of a manager that starts on it."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        _write(image, Path(folder))
        names = [path.name for path in Path(folder).iterdir()]
        data = [(Path(folder) / name).read_bytes() for name in names]
        recording = Recording(Path(folder))
        fnopt.CheckpointManager(folder, keep=1, fs=recording).close()
    base = [Op("create", (name,), place) for place, name in enumerate(names)]
    base += [Op("write", (), place, 0, content) for place, content in enumerate(data)]
    base += [Op("fsync", (), place) for place in range(len(names))]
    start = [attrs.evolve(op, inode=op.inode + len(names) if op.inode >= 0 else -1) for op in recording.ops]
    return [*base, Op("fsync_folder")], start


def _crashed(ops: list[Op], judge: Callable[[Image, list[Op]], list[str]], start: int = 0) -> Verdict:
    """Every image of every prefix of a trace, judged."""
    verdict, known = Verdict(facts={"calls": 0}), dict[tuple[object, ...], list[str]]()
    for length in range(start, len(ops) + 1):
        prefix = ops[:length]
        verdict.facts["calls"] += bool(prefix) and prefix[-1].call not in ("begin", "acknowledge")
        done = tuple(sum(op.call == call for op in prefix) for call in ("begin", "acknowledge"))
        for image in images(prefix):
            key = (*done, *sorted(image.items()))
            if key not in known:
                known[key] = judge(image, prefix)
            verdict.check(not known[key], f"crash after call {length}: {known[key]}, {sorted(image)}")
    return verdict


def _judge_run(image: Image, ops: list[Op], keep: int) -> list[str]:
    begun, acknowledged = (sum(op.call == call for op in ops) for call in ("begin", "acknowledge"))
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        _write(image, Path(folder))
        problems = []
        good = _good(Path(folder))
        if len(good) < min(keep, acknowledged):
            problems.append(f"{len(good)} good files, expected {min(keep, acknowledged)}")
        try:
            with warnings.catch_warnings(), fnopt.CheckpointManager(folder, fs=NoSync()) as manager:
                warnings.simplefilter("ignore")  # of broken files, which are passed over
                state = None if manager.latest() is None else manager.restore(LIKE)
        except CheckpointError as error:
            return [*problems, f"{type(error).__name__}"]
        if state is None:
            problems += ["nothing is left"] if acknowledged else []
        elif state.position not in (acknowledged, begun) or state != at(state.position):
            problems.append(f"position {state.position}, expected {acknowledged} or {begun}")
        if stray := [path.name for path in Path(folder).iterdir() if not path.name.startswith("step-")]:
            problems.append(f"left {stray}")
    return problems


def _good(folder: Path) -> list[Path]:
    good = list[Path]()
    for path in folder.glob("step-*.safetensors"):
        try:
            fnopt.load_checkpoint(path, LIKE)
        except CheckpointError:
            continue
        good.append(path)
    return good


def _judge_file(image: Image, ops: list[Op]) -> list[str]:
    begun, acknowledged = (sum(op.call == call for op in ops) for call in ("begin", "acknowledge"))
    if "last" not in image:
        return ["no file"] if acknowledged else []
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        _write(image, Path(folder))
        try:
            found = fnopt.load_checkpoint(Path(folder) / "last", LIKE)
        except CheckpointError as error:
            return [type(error).__name__]
    legal = [at(position) for position in {acknowledged, begun} - {0}]
    return [] if found in legal else ["neither the old state nor the new one"]


def _write(image: Image, folder: Path) -> None:
    """These files, as those of a process that is no more."""
    mine, dead = f".{current().pid}.", f".{DEAD}."
    for name, data in image.items():
        (folder / name.replace(mine, dead)).write_bytes(data)


def _memory() -> str | None:
    """A folder in memory, where there is one: nothing here depends on the disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
