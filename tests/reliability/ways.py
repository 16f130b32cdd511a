"""Ways to keep the last state of a run in a folder: fnopt's, and those of others, as their documentation shows them.

Each has `save(state)` and `load()`; a way that is not installed is left out by `installed`.
"""

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import training
from torch import Tensor

import fnopt
from fnopt.checkpoint.names import flatten, rebuild
from fnopt.state import TrainState


def _like() -> TrainState:
    return training.weighted(training.like())


class Way(Protocol):
    """How a run keeps its last state in `folder`."""

    def __init__(self, folder: Path): ...
    def save(self, state: TrainState) -> None: ...
    def load(self) -> TrainState: ...
    def close(self) -> None: ...


class Managed:
    """fnopt: a CheckpointManager that keeps two."""

    keep = 2

    def __init__(self, folder: Path):
        self.manager = fnopt.CheckpointManager(folder, keep=self.keep)

    def save(self, state: TrainState) -> None:
        self.manager.save(state)

    def load(self) -> TrainState:
        return self.manager.restore(_like())

    def close(self) -> None:
        self.manager.close()


class OneKept(Managed):
    """fnopt: a CheckpointManager that keeps one."""

    keep = 1


class OneFile:
    """fnopt: save_checkpoint over the same path."""

    def __init__(self, folder: Path):
        self.path = folder / "last.safetensors"

    def save(self, state: TrainState) -> None:
        fnopt.save_checkpoint(self.path, state)

    def load(self) -> TrainState:
        return fnopt.load_checkpoint(self.path, _like())

    def close(self) -> None:
        pass


class TorchSave:
    """torch.save over the same file."""

    def __init__(self, folder: Path):
        self.path = folder / "last.pt"

    def save(self, state: TrainState) -> None:
        torch.save(as_dict(state), self.path)

    def load(self) -> TrainState:
        return from_dict(torch.load(self.path, weights_only=True))

    def close(self) -> None:
        pass


class Lightning(TorchSave):
    """Lightning's checkpoint plugin over the same file, with TMPDIR on another file system."""

    def save(self, state: TrainState) -> None:
        from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

        tempfile.tempdir = "/dev/shm"  # as TMPDIR at the start would have it
        TorchCheckpointIO().save_checkpoint(as_dict(state), str(self.path))


class Distributed:
    """torch.distributed.checkpoint over the same folder."""

    def __init__(self, folder: Path):
        self.folder = folder / "last"

    def save(self, state: TrainState) -> None:
        from torch.distributed import checkpoint

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.save({"state": as_dict(state)}, checkpoint_id=self.folder, no_dist=True)

    def load(self) -> TrainState:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint import CheckpointException

        held = {"state": {name: torch.zeros_like(leaf) for name, leaf in as_dict(_like()).items()}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                checkpoint.load(held, checkpoint_id=self.folder, no_dist=True)
            except CheckpointException as error:  # a BaseException, like Ctrl-C
                raise RuntimeError(str(error)) from None
        return from_dict(held["state"])

    def close(self) -> None:
        pass


WAYS: dict[str, Callable[[Path], Way]] = {
    way.__name__: way for way in (Managed, OneKept, OneFile, TorchSave, Lightning, Distributed)
}
PEERS = {"TorchSave": "torch.save", "Lightning": "Lightning", "Distributed": "DCP"}


def installed(name: str) -> bool:
    """Can this way be gone here?"""
    return name != "Lightning" or (importlib.util.find_spec("lightning") is not None and os.path.isdir("/dev/shm"))


def as_dict(state: TrainState) -> dict[str, Tensor]:
    """A state as one flat dict of tensors, which every way can keep."""
    leaves = {name: leaf for name, leaf in flatten("test", state).items() if leaf is not None}
    return {**leaves, "position": torch.tensor(state.position), "seed": torch.tensor(state.seed)}


def from_dict(values: dict[str, Any]) -> TrainState:
    """The state again."""
    tensors = dict(values)
    position, seed = int(tensors.pop("position")), int(tensors.pop("seed"))
    return rebuild(_like(), tensors, position, seed)
