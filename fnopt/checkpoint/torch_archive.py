"""What torch.save wrote, read without trust: the zip archive and the names in its pickle are checked before torch is
asked to load it. This is the one place that calls torch.load, always with weights_only=True.

    end        the directory is where torch writes it, with nothing after it, and small enough to be listed
    entries    stored, not compressed; names once; sizes that sum to no more than the file has; the CRC-32 of each
    pickle     names only what tensors, numbers and plain containers are made of, and these take no
               more memory than 64 MB and the size of the file allow
"""

import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from io import FileIO
from typing import Any, cast

import torch

from ..errors import CheckpointCorruptError, NotACheckpointError, UnsafeCheckpointError

_CHUNK = 1 << 20
_END, _LOCATOR, _END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_MOST_ENTRIES = 40_000  # about 1 kB each in Python, and more for a larger file
_ALLOWED = re.compile(
    r"collections OrderedDict|torch\._utils (_rebuild_tensor_v2|_rebuild_tensor_v3|_rebuild_parameter)"
    r"|torch (\w+Storage|Size|device|u?int\d+|b?float\d+\w*|complex\d+|bool)|torch\.storage (Untyped|Typed)Storage"
    r"|_codecs encode|builtins (set|complex)"
)
_ROOM = 52_000_000  # bytes: 64 MB may be used in all
# What an operation adds in bytes, at most: about 60 for a small object and its place; most of these add a reference.
_CHEAP = (
    "MARK BINGET LONG_BINGET NONE NEWTRUE NEWFALSE EMPTY_TUPLE BININT1 SETITEM SETITEMS APPEND APPENDS POP POP_MARK"
)
_COSTS: dict[str, int] = {
    **dict.fromkeys(_CHEAP.split(), 8),
    **{"EMPTY_DICT": 72, "DICT": 72, "EMPTY_SET": 224, "REDUCE": 150, "BUILD": 150},
}
_OPAQUE = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}  # name things by other means


def read_archive(path: str, file: FileIO, size: int) -> Any:
    """The object in an open torch file; CheckpointError for every doubt, before anything is unpacked."""
    check_archive(path, file, size)
    file.seek(0)
    try:
        return torch.load(cast(Any, file), map_location="cpu", weights_only=True)
    except (RuntimeError, MemoryError) as error:
        raise _damaged(path, "data.pkl", f"torch cannot load it ({_first_line(error)})") from None
    except Exception as error:
        raise _unsafe(path, "data.pkl", f"a pickle that torch refuses ({_first_line(error)})") from None


def check_archive(path: str, file: FileIO, size: int) -> None:
    """Whatever can be known of a torch file without loading it."""
    _check_end(path, file, size)
    try:
        archive = zipfile.ZipFile(cast(Any, file))
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise _damaged(path, "zip", f"its zip directory cannot be read ({error})") from None
    _check_entries(path, entries, size)
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise NotACheckpointError(
            f"{path} is a zip archive with {len(pickles)} files data.pkl, expected one, as torch.save writes",
            path=path,
            item="data.pkl",
            expected="1",
            found=str(len(pickles)),
            hint="load_checkpoint reads what save_checkpoint, export_torch or torch.save wrote",
        )
    _check_sums(path, archive, entries)
    _check_pickle(path, archive.read(pickles[0]), size)


def _check_end(path: str, file: FileIO, size: int) -> None:
    file.seek(max(0, size - 98))
    tail = file.read(98)
    end = tail[-22:]
    if len(end) < 22 or end[:4] != _END or end[-2:] != b"\0\0":
        raise _damaged(path, "size", f"it does not end as a zip archive does, at {size} bytes: it was cut, or grew")
    directory = int.from_bytes(end[12:16], "little")
    if tail[-42:-38] == _LOCATOR:
        if tail[:4] != _END64:
            raise _damaged(path, "zip", "its zip directory is not where torch writes it")
        directory = max(directory, int.from_bytes(tail[40:48], "little"))
    most = 64 * (_MOST_ENTRIES + size // 1024)
    if directory > most:
        raise _unsafe(path, "zip", f"a zip directory of {directory} bytes, expected {most} at most in {size} bytes")


def _check_entries(path: str, entries: list[zipfile.ZipInfo], size: int) -> None:
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise _unsafe(
                path,
                entry.filename,
                f"the compressed entry {entry.filename[:80]!r}, {entry.compress_size} bytes that become "
                f"{entry.file_size}, which torch never writes",
            )
    if (total := sum(entry.file_size for entry in entries)) > size:
        raise _unsafe(path, "zip", f"entries of {total} bytes in all, expected at most its own {size}")
    if len({entry.filename for entry in entries}) != len(entries):
        raise _unsafe(path, "zip", "two entries of one name")


def _check_sums(path: str, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    """The zip's own check of every byte, which torch does not make."""
    for entry in entries:
        try:
            with archive.open(entry) as data:
                while data.read(_CHUNK):
                    pass
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
            why = f"its entry {entry.filename[:80]!r} fails the check of the zip archive ({_first_line(error)})"
            raise _damaged(path, entry.filename, why) from None


def _check_pickle(path: str, data: bytes, size: int) -> None:
    cost, most = 0, size + _ROOM - 2 * len(data)  # the pickle itself is read here, and by torch
    try:
        for operation, argument, _ in cast(Iterator[Any], pickletools.genops(data)):
            if operation.name in _OPAQUE or (operation.name == "GLOBAL" and not _ALLOWED.fullmatch(str(argument))):
                name = str(argument or operation.name).replace(" ", ".")[:80]
                raise _unsafe(path, name, f"a pickle that calls for {name!r}, which no tensor or number needs")
            cost += _COSTS.get(operation.name, 60)
            if isinstance(argument, str | bytes):
                cost += len(argument) * (1 if argument.isascii() else 4)
            if cost > most:
                raise _unsafe(path, "data.pkl", f"a pickle whose objects need over {most} bytes, in a file of {size}")
    except UnsafeCheckpointError:
        raise
    except (ValueError, IndexError) as error:
        raise _damaged(path, "data.pkl", f"its pickle cannot be read ({_first_line(error)})") from None


def _damaged(path: str, item: str, why: str) -> CheckpointCorruptError:
    hint = "use another copy"
    expected = "a whole zip archive, as torch.save writes"
    return CheckpointCorruptError(
        f"{path} is damaged: {why}; {hint}", path=path, item=item, expected=expected, found=why, hint=hint
    )


def _unsafe(path: str, item: str, what: str) -> UnsafeCheckpointError:
    hint = "do not load it otherwise unless you trust whoever made it"
    expected = "tensors, numbers and plain containers, stored"
    return UnsafeCheckpointError(
        f"{path} holds {what}; {hint}", path=path, item=item, expected=expected, found=what, hint=hint
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
