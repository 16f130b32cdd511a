"""P2: the calls that the kernel sees of a run of saves are those that the recording Fs has, in the same order."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from disk import Recording
from manager_cases import at
from verdict import PATHS, Verdict

import fnopt
from fnopt.checkpoint.fs import DISK, Fs

CODE = "import sys; sys.path[:0] = {paths}; import straced; straced.saves({folder!r})"
CALLS = (
    "openat,write,lseek,fsync,fdatasync,sync,close,rename,renameat,renameat2,unlink,unlinkat,mkdir,ftruncate,truncate"
)
LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (\d+)(?:<(.*)>)?")


def saves(folder: str, fs: Fs = DISK) -> None:
    """A manager of a folder that is to be made, and three saves of which one stays."""
    with fnopt.CheckpointManager(folder, keep=1, fs=fs) as manager:
        for position in (1, 2, 3):
            manager.save(at(position))


def compared() -> Verdict:
    """Both traces, call by call."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as above:
        real, recorded = Path(above) / "real", Path(above) / "recorded"
        recording = Recording(recorded)
        saves(str(recorded), recording)
        ours = [_plain(op.call, op.names, len(op.data), op.offset) for op in recording.ops]
        theirs = _seen(real)
    for place, pair in enumerate(zip(ours, theirs, strict=False)):
        verdict.check(_equal(*pair), f"call {place}: recorded {pair[0]}, strace has {pair[1]}")
    verdict.check(len(ours) == len(theirs), f"{len(ours)} calls recorded, {len(theirs)} seen")
    return verdict


def _equal(ours: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    named = ours[0] not in ("write", "seek", "fsync", "close")
    return ours[0] == theirs[0] and ours[2:] == theirs[2:] and (not named or ours[1] == theirs[1])


def _seen(folder: Path) -> list[tuple[object, ...]]:
    """What strace has of the calls that change this folder, or the one above."""
    log = folder.parent / "log"
    command = ["strace", "-f", "-y", "-s", "0", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(log)]
    code = CODE.format(paths=PATHS, folder=str(folder))
    subprocess.run([*command, sys.executable, "-c", code], check=True, capture_output=True)
    calls, made = list[tuple[object, ...]](), set[str]()
    for line in log.read_text().splitlines():
        match = LINE.fullmatch(line)
        if match and str(folder.parent) in line:
            calls += _read(match, folder, made)
    return calls


def _read(match: re.Match[str], folder: Path, made: set[str]) -> list[tuple[object, ...]]:
    """A line of strace as calls of an Fs; reads are left out."""
    call, arguments, result, _ = match.groups()
    paths = [Path(path).name for path in re.findall(r'[<"](/[^>"]*)[>"]', arguments) if path != str(Path.cwd())]
    if call == "openat":
        made |= {paths[-1]} if "O_CREAT" in arguments else set()
        return [_plain("create", paths[-1:])] if "O_CREAT" in arguments else []
    if call in ("fsync", "close") and paths[0] not in made:
        of = {folder.name: "fsync_folder", folder.parent.name: "fsync_above"}
        return [_plain(of[paths[0]], paths)] if call == "fsync" else []
    if call == "lseek":
        return [_plain("seek", (), 0, int(result))]
    names = {"mkdir": "make_folder", "rename": "replace"}
    return [_plain(names.get(call, call), paths, int(result) if call == "write" else 0)]


def _plain(call: str, names: list[str] | tuple[str, ...] = (), size: int = 0, offset: int = 0) -> tuple[object, ...]:
    """A call without what differs from run to run: process, random digits, the name of the folder."""
    if call == "write":
        return call, (), size
    if call in ("seek", "fsync", "close"):
        return call, (), offset if call == "seek" else 0
    if call in ("fsync_folder", "fsync_above", "make_folder"):
        return (call, ())
    return call, tuple(re.sub(r"\.fnopt-.*(tmp|lock)", r"\1", name) for name in names)
