"""The folder of a run: what is in it, how it begins, and how a run is found there again to the bit."""

import hashlib
import math
from pathlib import Path
from typing import Any

import attrs
import torch

from ..callbacks import JsonlLog
from ..checkpoint import load_checkpoint, read_info, save_checkpoint
from ..errors import FnoptError
from ..state import TrainState
from .config import Config
from .job import Job, make_job
from .text import read_text

LAST, BEST, LOG, CURVE, SAMPLE = "last.safetensors", "best.safetensors", "log.jsonl", "curve.png", "sample.txt"


class FolderError(FnoptError, ValueError):
    """A folder in which no run can begin, or go on."""


@attrs.frozen
class Run:
    """Where a run is: all that its loop depends on besides the job, replaced as a whole after each whole step."""

    state: TrainState
    best: float = math.inf  # bits per byte, the least so far on the held-out text
    best_updates: int = 0  # when that was
    validated: int = 0  # the position of the last validation


@attrs.frozen
class Folder:
    """The files of one run."""

    path: Path
    job: Job
    log: JsonlLog
    text_sha256: str

    @classmethod
    def begin(cls, path: Path, config: Config) -> tuple["Folder", Run]:
        """A new run, saved before its first step: a folder that cannot be written is known at once."""
        torch.set_num_threads(config.threads or torch.get_num_threads())
        text = read_text(config.data)
        job, sha256 = make_job(config, text), hashlib.sha256(text).hexdigest()
        start = Run(job.step.init_state(job.model, seed=config.seed))
        _make_empty(path)
        _save(path / LAST, job, start, sha256)
        return cls(path, job, JsonlLog(path / LOG, every=config.log_every), sha256), start

    @classmethod
    def go_on(cls, path: Path, updates: int | None) -> tuple["Folder", Run]:
        """The run of a folder at its last checkpoint, on the way to its own or another number of updates."""
        info = _info(path)
        done, config = info["updates"], Config.from_json(info["info"]["config"])
        if updates is not None and updates < done:
            raise FolderError(f"--updates must be at least the {done} that {path} has already, got {updates}")
        config = attrs.evolve(config, updates=config.updates if updates is None else updates)
        torch.set_num_threads(config.threads or torch.get_num_threads())
        text = read_text(config.data)
        sha256, stored = hashlib.sha256(text).hexdigest(), info["info"]
        if sha256 != stored["text_sha256"]:
            source = " ".join(config.data) or "Python's help topics, which differ between its versions"
            raise FolderError(f"the text is no longer what {path} was trained on: {source}; bring it back as it was")
        job = make_job(config, text)
        state = load_checkpoint(path / LAST, like=job.step.init_state(job.model, seed=config.seed))
        best = math.inf if stored["best_bits_per_byte"] is None else stored["best_bits_per_byte"]
        now = Run(state, best, stored["best_updates"], stored["validated"])
        return cls(path, job, JsonlLog(path / LOG, every=config.log_every), sha256), now

    def save(self, now: Run) -> None:
        """Write the log so far, then the checkpoint."""
        self.log.flush()
        _save(self.path / LAST, self.job, now, self.text_sha256)

    def validate(self, now: Run, bits: float) -> Run:
        """Keep the averaged weights, of so many bits per byte, if they are the best so far."""
        state = now.state
        if not bits < now.best:
            return attrs.evolve(now, validated=state.position)
        best = Run(self.job.averaged(state), bits, int(state.updates), state.position)
        _save(self.path / BEST, self.job, best, self.text_sha256, params="the averaged weights, which were validated")
        return attrs.evolve(best, state=state)


def _save(path: Path, job: Job, now: Run, sha256: str, params: str = "the weights in training") -> None:
    info = {
        "config": job.config.as_json(),
        "text_sha256": sha256,
        "optimizer": repr(job.step.optimizer),
        "loss_scale": repr(job.step.loss_scale),
        "best_bits_per_byte": now.best if math.isfinite(now.best) else None,
        "best_updates": now.best_updates,
        "validated": now.validated,
        "params": params,
    }
    save_checkpoint(path, now.state, info)


def _make_empty(path: Path) -> None:
    """A folder that holds no file of a run yet."""
    try:
        there = [name for name in (LAST, BEST, LOG, CURVE, SAMPLE) if (path / name).exists()]
        if not there:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"--out: cannot make the folder {path}: {error.strerror or error}") from None
    if there:
        fix = f"go on with `fnopt resume {path}`, or name another --out" if LAST in there else "name another --out"
        raise FolderError(f"--out: {path} already holds {', '.join(there)}; {fix}")


def _info(path: Path) -> dict[str, Any]:
    """What the last checkpoint of a folder says about itself, if `fnopt train` wrote it."""
    if not (path / LAST).exists():
        listed = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
        what = (
            f"it holds {', '.join(listed[:8])}" if listed else "it is empty" if path.is_dir() else "it does not exist"
        )
        raise FolderError(f"{path} holds no run (no {LAST}): {what}; begin one with `fnopt train --out {path}`")
    found = read_info(path / LAST)
    if "config" not in found["info"] or "validated" not in found["info"]:
        raise FolderError(f"{path / LAST} was not written by `fnopt train`; load it with fnopt.load_checkpoint")
    return found
