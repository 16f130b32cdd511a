"""A recording Fs, and a model of what a power failure may leave of a recorded trace.

What the model takes for granted is what POSIX promises: bytes are safe after fsync of their file, names after fsync of
their folder, one replace is one change of names. Everything since then may have happened or not: any subset of changes
of names, any subset of the writes of a file, and half of its last one. (Real file systems do less harm.)
"""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from fnopt.checkpoint.fs import Fs

Image = dict[str, bytes]  # the files of a folder, by name


@attrs.frozen
class Op:
    """One call that changes the disk; `fd` names the file as long as it is open, `data` is what was written."""

    call: str
    names: tuple[str, ...] = ()
    inode: int = -1
    offset: int = 0
    data: bytes = b""


class Recording(Fs):
    """The real disk, whose trace is kept. fsync is recorded only: what it would do is the model's business."""

    def __init__(self, folder: Path):
        self.folder, self.ops = folder, list[Op]()
        self._open: dict[int, tuple[int, int]] = {}  # descriptor: inode, offset
        self._inodes, self._lock = itertools.count(), threading.Lock()

    def mark(self, call: str, *names: str) -> None:
        """A note in the trace, of something that is no call."""
        self.ops.append(Op(call, names))

    def create(self, path: Path) -> int:
        fd = super().create(path)
        inode = next(self._inodes)
        self._open[fd] = inode, 0
        self.ops.append(Op("create", (path.name,), inode))
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        taken = super().write(fd, data)
        inode, offset = self._open[fd]
        self.ops.append(Op("write", (), inode, offset, bytes(data[:taken])))
        self._open[fd] = inode, offset + taken
        return taken

    def seek(self, fd: int, offset: int) -> None:
        super().seek(fd, offset)
        self._open[fd] = self._open[fd][0], offset
        self.ops.append(Op("seek", (), self._open[fd][0], offset))

    def fsync(self, fd: int) -> None:
        self.ops.append(Op("fsync", (), self._open[fd][0]))

    def close(self, fd: int) -> None:
        super().close(fd)
        self.ops.append(Op("close", (), self._open.pop(fd)[0]))

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.ops.append(Op("replace", (source.name, target.name)))

    def fsync_folder(self, folder: Path) -> None:
        self.ops.append(Op("fsync_folder" if folder == self.folder else "fsync_above", (folder.name,)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.ops.append(Op("unlink", (path.name,)))

    def make_folder(self, folder: Path) -> None:
        super().make_folder(folder)
        self.ops.append(Op("make_folder", (folder.name,)))


NAMING = ("create", "replace", "unlink")


def images(ops: list[Op]) -> Iterator[Image]:
    """Every folder that a power failure right after these calls may leave, each once."""
    synced = max((place for place, op in enumerate(ops) if op.call == "fsync_folder"), default=-1)
    safe = [op for op in ops[: synced + 1] if op.call in NAMING]
    unsafe = [op for op in ops[synced + 1 :] if op.call in NAMING]
    seen = set[tuple[tuple[str, bytes], ...]]()
    contents = {inode: list(_contents(ops, inode)) for inode in {op.inode for op in ops if op.inode >= 0}}
    for chosen in _subsets(unsafe):
        names = _names(ops, [*safe, *chosen])
        inodes = list(dict.fromkeys(names.values()))
        for content in itertools.product(*(contents[inode] for inode in inodes)):
            data = dict(zip(inodes, content, strict=True))
            image = {name: data[inode] for name, inode in names.items()}
            if (key := tuple(sorted(image.items()))) not in seen:
                seen.add(key)
                yield image


def _names(ops: list[Op], naming: list[Op]) -> dict[str, int]:
    """Which inode each name stands for, after these changes; a file that was renamed is the one of the whole trace."""
    made = {op.names[0]: op.inode for op in ops if op.call == "create"}
    names: dict[str, int] = {}
    for op in naming:
        if op.call == "unlink":
            names.pop(op.names[0], None)
            continue
        names[op.names[-1]] = made[op.names[0]]
        if op.call == "replace":
            names.pop(op.names[0], None)
    return names


def _contents(ops: list[Op], inode: int) -> Iterator[bytes]:
    """What may be in a file: all up to its last fsync, and of later writes any subset, the last one also by half."""
    mine = [op for op in ops if op.inode == inode and op.call in ("write", "fsync")]
    synced = max((place for place, op in enumerate(mine) if op.call == "fsync"), default=-1)
    safe = [op for op in mine[: synced + 1] if op.call == "write"]
    late = [op for op in mine[synced + 1 :] if op.call == "write"]
    kept = [*_subsets(late)]
    if late:
        torn = attrs.evolve(late[-1], data=late[-1].data[: len(late[-1].data) // 2])
        kept += [[*some, torn] for some in _subsets(late[:-1])]
    yield from dict.fromkeys(_written([*safe, *some]) for some in kept)


def _written(writes: list[Op]) -> bytes:
    """The bytes of a file after these writes; zeros where nothing was written."""
    data = bytearray()
    for op in writes:
        end = op.offset + len(op.data)
        data.extend(bytes(max(0, end - len(data))))
        data[op.offset : end] = op.data
    return bytes(data)


def _subsets(items: list[Any]) -> Iterator[list[Any]]:
    for size in range(len(items) + 1):
        yield from map(list, itertools.combinations(items, size))
