"""P3: any call of the disk fails, once, at any moment of a run: the error is handed over, and nothing is lost."""

import errno
import os
import resource
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import training
from checkpoint_cases import small_state
from manager_cases import CALLS, LIKE, at
from verdict import Verdict, isolated
from ways import WAYS, Way

import fnopt
from fnopt.checkpoint.fs import Fs
from fnopt.checkpoint.process import current
from fnopt.errors import CheckpointError, CheckpointReadError, CheckpointWriteError

FAULTS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EINTR")}
HARMLESS = ("stamp", "unlink")  # a cache, and removals: the file stays, which the next start or save removes
SAVES = (1, 2, 3)


class Failing(Fs):
    """The real disk, of which the nth call fails: with an errno, or ("short") by taking half of the bytes."""

    def __init__(self, at: int, fault: str):
        self.at, self.fault, self.calls, self.hit = at, fault, 0, ""

    def free(self, folder: Path) -> int:
        return 300


def _failing(name: str):
    def call(self, *arguments):
        self.calls += 1
        if self.calls == self.at:
            if self.fault != "short":
                if name == "close":
                    Fs.close(self, *arguments)  # a descriptor is gone even if closing it fails
                self.hit = name
                raise OSError(FAULTS[self.fault], os.strerror(FAULTS[self.fault]))
            if name == "write":
                self.hit = name
                return Fs.write(self, arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)])
        return getattr(Fs, name)(self, *arguments)

    return call


for _name in CALLS:
    setattr(Failing, _name, _failing(_name))


def swept(fault: str, asynchronous: bool = False) -> Verdict:
    """A start on a folder with a checkpoint, three saves and the end, with each call failing in turn."""
    verdict, last = Verdict(facts={"handed over": 0}), False
    while not last:
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            fnopt.save_checkpoint(Path(folder) / "step-0000000000.safetensors", at(0))
            fs = Failing(verdict.cases + 1, fault)
            saved, errors = _run(Path(folder), fs, asynchronous)
            last = fs.calls < fs.at
            if not last:
                _judge(verdict, Path(folder), fs, saved, errors)
    return verdict


def _run(folder: Path, fs: Fs, asynchronous: bool) -> tuple[int, list[Exception]]:
    """The position of the last save that was acknowledged, and the errors that the caller saw."""
    saved, errors = 0, list[Exception]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with fnopt.CheckpointManager(folder, keep=1, asynchronous=asynchronous, fs=fs) as manager:
                for position in SAVES:
                    try:
                        manager.save(at(position))
                        manager.latest()
                        saved = position
                    except Exception as error:
                        errors.append(error)
        except Exception as error:
            errors.append(error)
    return saved, errors


def _judge(verdict: Verdict, folder: Path, fs: Failing, saved: int, errors: list[Exception]) -> None:
    case, problems = f"call {fs.at}, {fs.hit or 'no write'} with {fs.fault}", list[str]()
    verdict.facts["handed over"] += len(errors)
    must = fs.hit and fs.hit not in HARMLESS and fs.fault != "short"
    if not errors and must:
        problems.append("no error")
    for error in errors:
        kinds = (CheckpointWriteError, CheckpointReadError)
        if type(error) not in kinds or error.errno != FAULTS.get(fs.fault) or not error.path:
            problems.append(f"raised {error!r}")
    problems += _after(folder, range(saved, SAVES[-1] + 1))
    verdict.check(not problems, f"{case}: {problems}")


def _after(folder: Path, legal: range) -> list[str]:
    """What is wrong with a folder, once whoever wrote there is dead and the next one starts."""
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace(f".{current().pid}.", ".4194305."))
    try:
        with warnings.catch_warnings(), fnopt.CheckpointManager(folder, keep=1) as manager:
            warnings.simplefilter("ignore")
            state = manager.restore(LIKE)
    except CheckpointError as error:
        return [f"the next start fails: {error}"]
    problems = [] if state == at(state.position) and state.position in legal else [f"restored {state.position}"]
    stray = [path.name for path in folder.iterdir() if not path.name.startswith("step-")]
    return problems + ([f"left {stray}"] if stray else [])


def limited(step: int = 97) -> Verdict:
    """The kernel's own limit on the size of a file, at every so many bytes of it: the old file or the whole new one."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as folder:
        path = fnopt.save_checkpoint(Path(folder) / "last", small_state(1))
        size = path.stat().st_size
        for limit in range(0, size, step):
            with _file_size(limit):
                _saved_over(verdict, path, errno.EFBIG, f"{limit} of {size} bytes")
    return verdict


def limited_for(name: str, limits: int = 24) -> Verdict:
    """The same limit for a way of others, at so many sizes: saves after which neither state can be loaded (`lost`), and
    those that failed without an error (`in silence`).
    """
    verdict = Verdict(facts={"lost": 0, "in silence": 0})
    first, second = (training.weighted(state) for state in training.uninterrupted(2)[0][1:])
    with tempfile.TemporaryDirectory() as folder:
        for limit in range(0, 2**20, 2**20 // limits):
            way, said = WAYS[name](Path(folder)), False
            way.save(first)
            with _file_size(limit):
                try:
                    way.save(second)
                except BaseException:  # as DCP's is
                    said = True
            found = _found(way)
            verdict.facts["lost"] += found not in (first, second)
            verdict.facts["in silence"] += not said and found != second
            verdict.check(found in (first, second) and said, f"{limit} bytes")
    return verdict


def _found(way: Way) -> object:
    try:
        return way.load()
    except Exception as error:
        return error


def full_disk() -> Verdict:
    """Real file systems in memory, from too small to large enough, mounted in a user namespace of their own."""
    return isolated("faults", "on_tmpfs", prefix=["unshare", "--map-root-user", "--mount"])


def on_tmpfs() -> Verdict:
    """A save of 64 KB over a small one, on disks of 10 pages and more: it fits, or the old file stays."""
    verdict = Verdict(facts={"full": 0})
    for pages in range(10, 40, 2):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "tmpfs", folder], check=True)
            path = fnopt.save_checkpoint(Path(folder) / "last", small_state(1))
            fits = _saved_over(verdict, path, errno.ENOSPC, f"a disk of {pages} pages", 16 * 4096)
            verdict.facts["full"] += not fits
            subprocess.run(["umount", folder], check=True)
    return verdict


def _saved_over(verdict: Verdict, path: Path, number: int, case: str, more: int = 0) -> bool:
    """Save another state over this file; was there room for it?"""
    new, before = small_state(2), set(path.parent.iterdir())
    if more:
        new.extra["more"] = torch.zeros(more, dtype=torch.uint8)
    try:
        fnopt.save_checkpoint(path, new)
        kept = new
    except CheckpointWriteError as error:
        kept = small_state(1) if error.errno == number else None
    whole = kept is not None and fnopt.load_checkpoint(path, kept) == kept
    verdict.check(whole and set(path.parent.iterdir()) == before, f"{case}: the old file, or only it, is not there")
    return kept is new


@contextmanager
def _file_size(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
