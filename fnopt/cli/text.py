"""Text as bytes: where it comes from, the part that is held out, and windows of it as a dataset."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..errors import FnoptError

HELD_OUT = 0.1  # of the text, at its end


class TextError(FnoptError, ValueError):
    """A text that cannot be read, or is too short to train on."""


def read_text(paths: Sequence[str]) -> bytes:
    """The bytes of these files, and of the text files in these folders; Python's own help topics where none is given.

    Files are joined in the order given, those of a folder by name. A file counts as text if it is UTF-8 without NUL;
    hidden ones are left out.
    """
    if not paths:
        topics = cast(dict[str, str], importlib.import_module("pydoc_data.topics").topics)
        return "\n".join(topics[name] for name in sorted(topics)).encode()
    parts = [part for path in paths for part in _parts(Path(path))]
    return b"\n".join(parts)


def _parts(path: Path) -> list[bytes]:
    if not path.is_dir():
        return [_read(path)]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    seen = [file for file in files if not any(name.startswith(".") for name in file.relative_to(path).parts)]
    texts = [data for file in seen if (data := _read(file)) and _is_text(data)]
    if not texts:
        raise TextError(f"--data: the folder {path} holds no text file (of {len(files)} files); name other paths")
    return texts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"--data: cannot read {path}: {error.strerror or error}") from None


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def split(text: bytes, context: int) -> tuple[Tensor, Tensor]:
    """The text to train on, and its last tenth, held out: uint8, at least one window of `context` + 1 bytes each."""
    held_out = int(len(text) * HELD_OUT)
    if held_out < context + 1:
        need = next(n for n in range(10 * context, 10 * context + 30) if int(n * HELD_OUT) >= context + 1)
        raise TextError(
            f"the text has {len(text):,} bytes, and --context {context} needs at least {need:,}, of which a tenth is "
            "held out; add files to --data, or take a smaller --context"
        )
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return data[:-held_out], data[-held_out:]


class Windows:
    """A map-style dataset of (input, target), int64 [context] each: the target is the input's next byte, everywhere.

    Windows do not overlap, so an epoch predicts each byte once (but for less than a window at the end).

    >>> windows = Windows(torch.arange(7, dtype=torch.uint8), context=3)
    >>> len(windows), windows[1]
    (2, (tensor([3, 4, 5]), tensor([4, 5, 6])))
    """

    def __init__(self, data: Tensor, context: int):
        self.data, self.context = data, context

    @property
    def sample_tokens(self) -> int:
        """Bytes that each window predicts."""
        return self.context

    def __len__(self) -> int:
        return (len(self.data) - 1) // self.context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.context
        window = self.data[start : start + self.context + 1].long()
        return window[:-1], window[1:]
