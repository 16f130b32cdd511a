"""The disk as a few calls that a test can replace, and the one way in which fnopt writes: whole and durable, or not."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointWriteError
from .process import temporary_name
from .reader import unreadable


class Fs:
    """Every call that changes the disk, and those that look which files there are. Tests replace it, to record the
    calls or to let the Nth one fail.
    """

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file; an existing one is an error."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, fd: int, data: memoryview) -> int:
        """How many of these bytes were taken: fewer than asked is legal."""
        return os.write(fd, data)

    def seek(self, fd: int, offset: int) -> None:
        """The next write begins at this byte."""
        os.lseek(fd, offset, os.SEEK_SET)

    def fsync(self, fd: int) -> None:
        """Return when the content of the file is on the medium."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, in one step: whoever looks sees the old file or the new one."""
        os.replace(source, target)

    def fsync_folder(self, folder: Path) -> None:
        """Return when the names in this folder are on the medium (Windows has no such call, and needs none)."""
        if os.name == "nt":
            return
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def make_folder(self, folder: Path) -> None:
        """Make one folder; an existing one is an error."""
        os.mkdir(folder)

    def names(self, folder: Path) -> list[str]:
        """The names of all that is in a folder, in order."""
        return sorted(os.listdir(folder))

    def stamp(self, path: Path) -> tuple[int, ...]:
        """Numbers that change when a file is replaced or written: inode, size, time of the last write."""
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def free(self, folder: Path) -> int:
        """The bytes that are left where this folder is."""
        return shutil.disk_usage(folder).free


DISK = Fs()


class Output:
    """A file that is being written."""

    def __init__(self, fs: Fs, fd: int):
        self._fs, self._fd = fs, fd

    def write(self, data: bytes | memoryview) -> None:
        """All of `data`, in as many writes as the system wants."""
        view = memoryview(data)
        while view:
            taken = self._fs.write(self._fd, view)
            if not taken:
                raise OSError(errno.EIO, "the file takes no more bytes")
            view = view[taken:]

    def write_at(self, offset: int, data: bytes) -> None:
        """Overwrite what is at this byte."""
        self._fs.seek(self._fd, offset)
        self.write(data)


def write_atomically(path: str | os.PathLike[str], fill: Callable[[Output], None], size: int, fs: Fs = DISK) -> None:
    """Let `fill` write a file of `size` bytes; whatever happens, `path` is the old file or the whole new one.

    The bytes go to a file in the same folder, named for this process (so that the file of a dead one is swept), are
    fsynced, get the name `path`, and the folder is fsynced. On any failure, Ctrl-C included, that file is removed.
    Raises CheckpointWriteError with the errno of the system.
    """
    target = _target(path)
    temporary = target.parent / temporary_name(secrets.token_hex(8))
    placed = False
    try:
        fd = fs.create(temporary)
        try:
            fill(Output(fs, fd))
            fs.fsync(fd)
        finally:
            fs.close(fd)
        fs.replace(temporary, target)
        placed = True
        fs.fsync_folder(target.parent)
    except BaseException as error:
        _remove(fs, temporary)
        if isinstance(error, OSError):
            raise _failed(fs, target, size, placed, error) from None
        raise


def make_folders(folder: Path, fs: Fs) -> None:
    """Make a folder and those above it that are missing, durably; CheckpointWriteError with the errno of the system."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                fs.make_folder(path)
            fs.fsync_folder(path.parent)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "this is no directory")
    except OSError as cause:
        why = cause.strerror or str(cause)
        raise _refused(folder, cause.errno or errno.EIO, why, "name a folder that can be made and written") from None


def names_in(folder: Path, fs: Fs) -> list[str]:
    """The names of all that is in a folder; CheckpointReadError with the errno of the system."""
    try:
        return fs.names(folder)
    except OSError as cause:
        raise unreadable("list", str(folder), cause) from None


def as_text(size: int) -> str:
    """A number of bytes as people read it.

    >>> as_text(1_234_000_000), as_text(12)
    ('1.2 GB', '12 B')
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _target(path: str | os.PathLike[str]) -> Path:
    """The file to replace: a link's own target, so that the link stays; refused unless it is a file or nothing yet."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        hint = f"make it first: Path({str(target.parent)!r}).mkdir(parents=True)"
        raise _refused(target, errno.ENOENT, f"{target.parent} is not an existing folder", hint)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise _failed(DISK, target, 0, False, error) from None
    if stat.S_ISDIR(mode):
        hint = f"name a file in it: {target.name}/step.safetensors"
        raise _refused(target, errno.EISDIR, "this is a directory", hint)
    if not stat.S_ISREG(mode):
        raise _refused(target, errno.EINVAL, "this is a device, pipe or socket", "name a regular file")
    return target


def unwritable(text: str, path: Path, why: str, hint: str, number: int | None) -> CheckpointWriteError:
    """The error for what the system does not take; it keeps the errno."""
    error = CheckpointWriteError(
        f"{text}: {why}; {hint}", path=str(path), item="system", expected="to be written", found=why, hint=hint
    )
    error.errno = number
    return error


def _refused(target: Path, number: int, why: str, hint: str) -> CheckpointWriteError:
    return unwritable(f"cannot write {target}", target, why, hint, number)


def _failed(fs: Fs, target: Path, size: int, placed: bool, cause: OSError) -> CheckpointWriteError:
    why = cause.strerror or str(cause) or type(cause).__name__
    hint = "nothing was changed"
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        why += f" (needs {as_text(size)}, has {_free(fs, target)})"
        hint = "make room, or save elsewhere; nothing was changed"
    if placed:
        hint = "the new file is in place and whole, but a power failure could still bring back the old one"
    return unwritable(f"cannot write {target}", target, why, hint, cause.errno)


def _free(fs: Fs, target: Path) -> str:
    try:
        return as_text(fs.free(target.parent))
    except OSError:
        return "an unknown rest"


def _remove(fs: Fs, path: Path) -> None:
    # it was never made, or the disk is gone; then the next start sweeps the files of dead processes
    with contextlib.suppress(OSError):
        fs.unlink(path)
