"""What is in a checkpoint, for those who have the file alone: its tensors described, and a state to load it into."""

import os
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from ..errors import CheckpointCorruptError, CheckpointError
from ..state import TrainState
from .document import Document
from .file import read_header
from .mismatch import Description, described
from .names import TREES, unescape
from .reader import is_archive, opened_file
from .torch_archive import check_archive


@attrs.frozen
class Contents:
    """A file as its header says; `damage` is None where the digest is right."""

    document: Document
    tensors: Mapping[str, Description]
    damage: CheckpointError | None


def contents_of(path: str | os.PathLike[str]) -> Contents:
    """What a file says of itself, also where its data are damaged; errors as of `read_info` where its header is."""
    document, entries = read_header(path, verify=False)
    try:
        read_header(path, verify=True)
        damage = None
    except CheckpointCorruptError as error:
        damage = error
    return Contents(document, described(os.fspath(path), document, entries), damage)


def blank_state(contents: Contents) -> TrainState:
    """A state with the structure of a file, and no values: `like` for a load of all that is in it."""
    trees: dict[str, Any] = {tree: {} for tree in TREES}
    for name, found in contents.tensors.items():
        *path, last = name.split("/")
        inner = trees
        for key in map(unescape, path):
            inner = inner.setdefault(key, {})
        if found is not None:
            shape, dtype = found
            inner[unescape(last)] = torch.empty(shape, dtype=dtype, device="cpu")
    return TrainState(position=contents.document.position, seed=contents.document.seed, **trees)


def verify(path: str | os.PathLike[str]) -> None:
    """Read a checkpoint or torch file to its end; CheckpointError unless every byte is as it was written."""
    if is_archive(path):
        with opened_file(path) as (name, file, size):
            check_archive(name, file, size)
    else:
        read_header(path, verify=True)
