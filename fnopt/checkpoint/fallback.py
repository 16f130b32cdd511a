"""Which file is taken where the newest is broken, and what is said of it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    CheckpointReadError,
    CheckpointWarning,
    NotACheckpointError,
    NoUsableCheckpointError,
    UnsafeCheckpointError,
)
from .shelf import Saved

T = TypeVar("T")

# What is wrong with a file itself, so that an older one may be taken. A newer schema, another model or a diverged run
# is none of that: an older file would not mend it, but hide it.
_BROKEN = (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    CheckpointReadError,
    NotACheckpointError,
    UnsafeCheckpointError,
)


def first_good(owner: str, folder: Path, files: list[Saved], use: Callable[[Saved], T]) -> T | None:
    """What `use` makes of the first file that is not broken; None of no files.

    One CheckpointWarning says which were passed over, and why; NoUsableCheckpointError if all are broken.
    """
    problems: list[str] = []
    for file in files:
        try:
            value = use(file)
        except _BROKEN as problem:
            problems.append(str(problem))
            continue
        if problems:
            text = f"{owner}: passed over {'; '.join(problems)}; took {file.path.name}"
            warnings.warn(text, CheckpointWarning, stacklevel=3)
        return value
    if not problems:
        return None
    error = NoUsableCheckpointError(
        f"{owner}: none of {len(problems)} checkpoints in {folder} can be used: {'; '.join(problems)}",
        path=str(folder),
        item="folder",
        expected="one file that verifies",
        found=f"{len(problems)} broken files",
        hint="use another copy",
    )
    error.problems = tuple(problems)
    raise error


def no_checkpoint(owner: str, folder: Path) -> CheckpointNotFoundError:
    """What is said of a folder without any."""
    hint = "begin a new run if that is what you want: latest() is None then"
    return CheckpointNotFoundError(
        f"{owner}: {folder} holds no checkpoint; {hint}",
        path=str(folder),
        item="folder",
        expected="a file step-*.safetensors",
        found="none",
        hint=hint,
    )
