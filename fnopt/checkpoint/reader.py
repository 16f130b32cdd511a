"""An open checkpoint, read once from front to back and hashed on the way."""

import difflib
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from ..errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointReadError,
    NotACheckpointError,
    UnsafeCheckpointError,
)
from .container import DIGEST, LONGEST_HEADER, PREFIX, blanked, too_large, wrong_size

CHUNK = 1 << 20
ZIP = b"PK\x03\x04"


class Reader:
    """The header of a checkpoint, then its data in order."""

    def __init__(self, path: str, file: FileIO):
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self._file = file
        self.header = self._read_header()
        self._sha = hashlib.sha256()
        for part in blanked(self.header):
            self._sha.update(part)

    def read(self, data: memoryview) -> None:
        """Fill `data` with the next bytes of the tensors."""
        self._fill(data)
        self._sha.update(data)

    def verify(self) -> None:
        """Read what is left; raise CheckpointCorruptError unless the digest is that of the file."""
        if damage := self._damage():
            raise damage

    @contextmanager
    def doubting(self) -> Generator[None, None, None]:
        """Any other complaint about a file gives way to the one that it is damaged, if it is."""
        try:
            yield
        except CheckpointError as complaint:
            if complaint.item == "size":
                raise
            raise (self._damage() or complaint) from None

    def _read_header(self) -> bytearray:
        start = self._file.read(DIGEST.stop)
        if start[8 : DIGEST.start] != PREFIX:
            raise _not_ours(self.path, _kind(start))
        length = 8 + int.from_bytes(start[:8], "little")
        if not DIGEST.stop <= len(start) <= length <= self.size:
            raise wrong_size(self.path, self.size, length)
        if length > LONGEST_HEADER:
            raise too_large(self.path, f"a header of {length} bytes, expected {LONGEST_HEADER} at most")
        header = bytearray(length)  # never two of them: a header may be most of a file
        header[: len(start)] = start
        self._fill(memoryview(header)[len(start) :])
        return header

    def _fill(self, data: memoryview) -> None:
        while data:
            taken = self._file.readinto(data)
            if not taken:
                raise wrong_size(self.path, self._file.tell(), self.size)
            data = data[taken:]

    def _damage(self) -> CheckpointCorruptError | None:
        while chunk := self._file.read(CHUNK):
            self._sha.update(chunk)
        found, expected = self._sha.hexdigest(), self.header[DIGEST].decode("latin-1")
        if found == expected:
            return None
        return CheckpointCorruptError(
            f"{self.path} is damaged: its sha256 begins with {found[:9]}, expected {expected[:9]!r}; use another copy",
            path=self.path,
            item="sha256",
            expected=expected,
            found=found,
            hint="use another copy",
        )


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Does a regular file begin as a zip archive does, such as torch.save writes? Its errors are those of `opened`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with FileIO(os.fspath(path)) as file:
            return file.read(len(ZIP)) == ZIP
    except OSError:
        return False


@contextmanager
def opened(path: str | os.PathLike[str]) -> Generator[Reader, None, None]:
    """The Reader of a file, closed at the end; every refusal is a CheckpointError."""
    with opened_file(path) as (name, file, _):
        yield Reader(name, file)


@contextmanager
def opened_file(path: str | os.PathLike[str]) -> Generator[tuple[str, FileIO, int], None, None]:
    """The name, descriptor and size of a regular file; every refusal of the system is a CheckpointError."""
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise _folder(name)
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise _not_ours(name, "a device, pipe or socket")
        with FileIO(name) as file:
            yield name, file, os.fstat(file.fileno()).st_size
    except CheckpointError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise _not_found(Path(name)) from None
    except OSError as cause:
        raise unreadable("read", name, cause) from None


def unreadable(verb: str, path: str, cause: OSError) -> CheckpointReadError:
    """The error for what the system does not let us see; it keeps the errno."""
    why, hint = cause.strerror or str(cause), "look at its permissions and at the disk"
    error = CheckpointReadError(
        f"cannot {verb} {path}: {why}; {hint}", path=path, item="system", expected="to be read", found=why, hint=hint
    )
    error.errno = cause.errno
    return error


def _not_found(path: Path) -> CheckpointNotFoundError:
    folder = path.parent
    if folder.is_dir():
        names = [name.name for name in itertools.islice(folder.iterdir(), 10_000)]
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
        hint = f"nearest names in {folder}: {', '.join(near)}" if near else f"{folder} holds nothing of a similar name"
    else:
        nearest = next((parent for parent in folder.parents if parent.is_dir()), folder)
        hint = f"{folder} is not an existing folder; the nearest one is {nearest}"
    error = CheckpointNotFoundError(
        f"no checkpoint at {path}; {hint}", path=str(path), item="path", expected="a file", found="nothing", hint=hint
    )
    error.errno = errno.ENOENT
    return error


def _folder(path: str) -> CheckpointError:
    if not Path(path, ".metadata").exists():
        return _not_ours(path, "a directory")
    what = "a folder of torch.distributed.checkpoint"
    hint = "dcp.load of torch reads it, if you trust whoever made it"
    return UnsafeCheckpointError(
        f"{path} is {what}, whose metadata is a pickle that runs what it says; {hint}",
        path=path,
        item=".metadata",
        expected="a file",
        found=what,
        hint=hint,
    )


def _not_ours(path: str, what: str) -> NotACheckpointError:
    hint = "load_checkpoint reads what save_checkpoint wrote"
    return NotACheckpointError(
        f"{path} is {what}, expected a checkpoint; {hint}",
        path=path,
        item="kind",
        expected="a checkpoint",
        found=what,
        hint=hint,
    )


def _kind(start: bytes) -> str:
    if not start:
        return "an empty file"
    for magic, kind in ((b"\x89PNG", "a PNG image"), (b"PK", "a zip archive, such as torch.save writes")):
        if start.startswith(magic):
            return kind
    if start[8:9] == b"{":
        return "a safetensors file that fnopt did not write, or one with a damaged beginning"
    return "a text file" if start.isascii() and b"\0" not in start else "some other file"
