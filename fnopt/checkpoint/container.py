"""The safetensors container, written and read as a stream, with one digest over every byte of the file.

    8 bytes   the length of the header, little-endian
    header    {"__metadata__":{"fnopt.sha256":"<64 hex digits>","fnopt":"<document>"},"<name>":{"dtype":…,"shape":…,
              "data_offsets":…},…} and spaces, so that the data begin at a multiple of 64
    data      the tensors in the order of the header, row-major, without gaps

The digest is the SHA-256 of the whole file with its own 64 digits as zeros. It has a fixed place, so that a file is
verified before anything in it is interpreted, and is filled in after the data, so that these are read and written once.
A header is good if it is, byte for byte, the one that would be written for what it says: that rules out duplicate
names, gaps, overlaps and offsets out of range at once. The safetensors library reads these files; it is not used here,
because it writes by itself (no fsync, no injected faults) and does not show the bytes that are to be hashed.
"""

import ctypes
import json
import math
from collections.abc import Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from ..errors import CheckpointCorruptError, UnsafeCheckpointError

# The code of a dtype and the number of stored values per entry: complex is stored as pairs, in a last dimension of 2.
DTYPES: dict[torch.dtype, tuple[str, int]] = {
    torch.float64: ("F64", 1),
    torch.float32: ("F32", 1),
    torch.float16: ("F16", 1),
    torch.bfloat16: ("BF16", 1),
    torch.float8_e4m3fn: ("F8_E4M3", 1),
    torch.float8_e5m2: ("F8_E5M2", 1),
    torch.float8_e4m3fnuz: ("F8_E4M3FNUZ", 1),
    torch.float8_e5m2fnuz: ("F8_E5M2FNUZ", 1),
    torch.int64: ("I64", 1),
    torch.int32: ("I32", 1),
    torch.int16: ("I16", 1),
    torch.int8: ("I8", 1),
    torch.uint64: ("U64", 1),
    torch.uint32: ("U32", 1),
    torch.uint16: ("U16", 1),
    torch.uint8: ("U8", 1),
    torch.bool: ("BOOL", 1),
    torch.complex128: ("F64", 2),
    torch.complex64: ("F32", 2),
    torch.complex32: ("F16", 2),
}
ITEMSIZE = {code: dtype.itemsize for dtype, (code, values) in DTYPES.items() if values == 1}
PREFIX = b'{"__metadata__":{"fnopt.sha256":"'
BLANK = "0" * 64
DIGEST = slice(8 + len(PREFIX), 8 + len(PREFIX) + len(BLANK))
LONGEST_HEADER = 100_000_000  # bytes: what the safetensors library accepts
_ROOM = 56_000_000  # of the 64 MB that a file may cost above its size


@attrs.frozen
class Entry:
    """One tensor as the header describes it."""

    name: str
    code: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Entry":
        """The entry of a tensor."""
        code, values = DTYPES[tensor.dtype]
        return cls(name, code, (*tensor.shape, *([values] if values > 1 else [])))

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape) * ITEMSIZE[self.code]


def encode(document: str, entries: Sequence[Entry]) -> bytes:
    """The beginning of a file: length and header, with a blank digest."""
    header: dict[str, Any] = {"__metadata__": {"fnopt.sha256": BLANK, "fnopt": document}}
    end = 0
    for entry in entries:
        start, end = end, end + entry.nbytes
        header[entry.name] = {"dtype": entry.code, "shape": entry.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


def excess(header: bytes | bytearray, size: int) -> str:
    """Why a header would cost too much memory to read, or nothing.

    A value costs about 150 bytes in Python, and the text is there four times: as read, cut, decoded and written again.
    """
    values = sum(header.count(mark) for mark in (b",", b"[", b"{"))
    if 150 * values + 4 * len(header) > _ROOM + size:
        return f"a header of {values} values in {len(header)} bytes, too much for a file of {size} bytes"
    if len(header) > LONGEST_HEADER:
        return f"a header of {len(header)} bytes, expected {LONGEST_HEADER} at most"
    return ""


def decode(path: str, header: bytes | bytearray, size: int) -> tuple[str, list[Entry]]:
    """The document and the entries of a header; every doubt is a CheckpointError."""
    if too_much := excess(header, size):
        raise too_large(path, too_much)
    try:
        described = cast(dict[str, dict[str, Any]], json.loads(header[8:].decode("ascii")))
        document = cast(str, described.pop("__metadata__")["fnopt"])
        entries = [Entry(name, item["dtype"], _shape(item["shape"])) for name, item in described.items()]
        if encode(document, entries) != b"".join(blanked(header)):
            raise ValueError("not canonical")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise unwritten(path, "header", "a header") from None
    expected = len(header) + sum(entry.nbytes for entry in entries)
    if expected != size:
        raise wrong_size(path, size, expected)
    return document, entries


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, which must outlive the view: tensor.numpy() without numpy."""
    assert tensor.is_contiguous()
    assert tensor.is_cpu
    if not tensor.nbytes:
        return memoryview(b"")
    return memoryview((ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def _shape(lengths: list[Any]) -> tuple[int, ...]:
    if not all(type(length) is int and length >= 0 for length in lengths):
        raise ValueError("no shape")
    return tuple(lengths)


def blanked(header: bytes | bytearray) -> tuple[memoryview, bytes, memoryview]:
    """The header with zeros for its digest, in parts."""
    view = memoryview(header)
    return view[: DIGEST.start], BLANK.encode(), view[DIGEST.stop :]


def too_large(path: str, what: str) -> UnsafeCheckpointError:
    """The error for a header that would cost more than its file pays for."""
    expected, hint = "a header in proportion to its file", "do not use this file unless you trust whoever made it"
    return UnsafeCheckpointError(
        f"{path} has {what}; {hint}", path=path, item="header", expected=expected, found=what, hint=hint
    )


def unwritten(path: str, item: str, what: str) -> CheckpointCorruptError:
    """The error for a file whose digest is right, but which fnopt never made."""
    expected, hint = "what save_checkpoint writes", "write it again with the fnopt that made it"
    return CheckpointCorruptError(
        f"{path} has {what} that fnopt would not write; {hint}",
        path=path,
        item=item,
        expected=expected,
        found=what,
        hint=hint,
    )


def wrong_size(path: str, found: int, expected: int) -> CheckpointCorruptError:
    """The error for a file that was cut, or has a tail."""
    return CheckpointCorruptError(
        f"{path} is damaged: it has {found} bytes, expected {expected}; use another copy",
        path=path,
        item="size",
        expected=str(expected),
        found=str(found),
        hint="use another copy",
    )
