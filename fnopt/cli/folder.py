"""The folder of a run: what is in it, how it begins, and how a run is found there again to the bit."""

import hashlib
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch

from ..checkpoint import CheckpointManager, read_info
from ..checkpoint.shelf import name_of
from ..errors import CheckpointWarning, FnoptError
from .config import Config
from .job import Job, make_job
from .text import read_text

BEST, LOG, CURVE, SAMPLE = "best.safetensors", "log.jsonl", "curve.png", "sample.txt"  # beside checkpoints
STEPS = "step-*.safetensors"


class FolderError(FnoptError, ValueError):
    """A folder in which no run can begin, or go on."""


@attrs.frozen
class Folder:
    """The files of one run, and its job, at the last checkpoint."""

    path: Path
    job: Job

    @classmethod
    def begin(cls, path: Path, config: Config) -> "Folder":
        """A new run, saved before its first step: a folder that cannot be written is known at once."""
        text = _read(config)
        job = make_job(config, text, path, _signed(text))
        _make_empty(path)
        job.trainer.save_checkpoint()
        return cls(path, job)

    @classmethod
    def go_on(cls, path: Path, updates: int | None) -> "Folder":
        """The run of a folder at its newest good checkpoint, on the way to its own or another number of updates."""
        newest = _newest(path)
        found = read_info(newest, verify=False)
        if not {"config", "text_sha256"} <= found["info"].keys():
            raise FolderError(f"{newest} was not written by `fnopt train`; load it with fnopt.load_checkpoint")
        config = Config.from_json(found["info"]["config"])
        if updates is not None and updates < found["updates"]:
            raise FolderError(
                f"--updates must be at least the {found['updates']} that {path} has already, got {updates}"
            )
        config = attrs.evolve(config, updates=config.updates if updates is None else updates)
        text = _read(config)
        if _signed(text) != {"text_sha256": found["info"]["text_sha256"]}:
            source = " ".join(config.data) or "Python's help topics, which differ between its versions"
            raise FolderError(f"the text is no longer what {path} was trained on: {source}; bring it back as it was")
        job = make_job(config, text, path, _signed(text))
        with _said():
            job.trainer.load_checkpoint(newest)
        return cls(path, job)

    @property
    def last(self) -> Path:
        """The checkpoint of the run as it is."""
        return self.path / name_of(self.job.trainer.state.position)

    def best(self) -> tuple[float, int]:
        """The fewest bits per byte on the held-out text so far, and after how many updates; inf if none was finite."""
        if not (self.path / BEST).exists():
            return float("inf"), 0
        found = read_info(self.path / BEST, verify=False)
        return found["info"]["marks"]["best"], found["updates"]


def _read(config: Config) -> bytes:
    torch.set_num_threads(config.threads or torch.get_num_threads())
    return read_text(config.data)


def _signed(text: bytes) -> dict[str, Any]:
    return {"text_sha256": hashlib.sha256(text).hexdigest()}


def _make_empty(path: Path) -> None:
    """A folder that holds no file of a run yet."""
    try:
        steps = sorted(file.name for file in path.glob(STEPS))
        there = [*steps, *(name for name in (BEST, LOG, CURVE, SAMPLE) if (path / name).exists())]
        if not there:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"--out: cannot make the folder {path}: {error.strerror or error}") from None
    if there:
        fix = f"go on with `fnopt resume {path}`, or name another --out" if steps else "name another --out"
        raise FolderError(f"--out: {path} already holds {', '.join(there)}; {fix}")


@contextmanager
def _said() -> Generator[None]:
    """What is warned of inside, as sentences of the command."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CheckpointWarning)
        yield
    for warning in said:
        print(f"fnopt: {warning.message}", file=sys.stderr)


def _newest(path: Path) -> Path:
    """The newest good checkpoint of a folder; what is wrong with newer ones is said."""
    if any(path.glob(STEPS)):
        with _said(), CheckpointManager(path) as manager:
            newest = manager.latest()
        if newest is not None:
            return newest
    listed = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if path.is_file():
        raise FolderError(f"{path} is a file, expected the folder of a run: `fnopt resume {path.parent}`")
    what = f"it holds {', '.join(listed[:8])}" if listed else "it is empty" if path.is_dir() else "it does not exist"
    raise FolderError(f"{path} holds no run (no {STEPS}): {what}; begin one with `fnopt train --out {path}`")
