"""The files of a run: its checkpoints, the best one, and what they hold beside the state."""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import attrs

from ..checkpoint import CheckpointManager, read_info, save_checkpoint
from ..checkpoint.environment import tell
from ..checkpoint.file import load_file
from ..checkpoint.shelf import name_of
from ..errors import StructureError, UsageError
from ..state import TrainState

BEST = "best.safetensors"
_WEIGHTS = "params are the weights in training; validated were step.eval_params(state), which opt_state gives again"
_BEST = "params are the weights that were validated: an average, where opt_state has one; {} has those in training"


@attrs.frozen
class Marks:
    """What a run knows beside its state.

    validated   the position of the last validation
    best        the best metric so far
    validation  what the last validation measured
    """

    validated: int = 0
    best: float | None = None
    validation: Mapping[str, float] = attrs.field(factory=dict[str, float])

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint stores: None for what is not finite."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.validation.items()}
        return {"validated": self.validated, "best": self.best, "validation": finite}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Marks":
        """The marks that `as_json` stored; what was not finite is nan."""
        values: dict[str, float | None] = stored.get("validation", {})
        validation = {name: math.nan if value is None else value for name, value in values.items()}
        return cls(stored["validated"], stored.get("best"), validation)


@attrs.define
class Saves:
    """The folder of a run. Its manager is open during a training, or for one save."""

    folder: Path | None
    keep: int
    mode: Literal["min", "max"]
    known: bool = False  # is what lies there of this run?
    last: int = -1  # the position of the last save
    _manager: CheckpointManager | None = None

    @contextmanager
    def open(self) -> Generator[CheckpointManager]:
        """The manager, for this block."""
        if self._manager is not None:
            yield self._manager
            return
        if self.folder is None:
            raise UsageError("Trainer: there is no save_dir, expected a folder to save into; give Trainer(save_dir=…)")
        with CheckpointManager(self.folder, keep=self.keep, mode=self.mode) as manager:
            self._manager = manager
            try:
                yield manager
            finally:
                self._manager = None

    @contextmanager
    def training(self, position: int) -> Generator[None]:
        """Open it for a training from here on, if there is a folder, and it holds nothing of another run."""
        if self.folder is None:
            yield
            return
        with self.open() as manager:
            newest = None if self.known else manager.latest()
            if newest is not None and read_info(newest, verify=False)["position"] > position:
                raise UsageError(
                    f"Trainer: {self.folder} holds {newest.name} of an earlier run, and this one is at position "
                    f"{position}; go on from there with trainer.load_checkpoint(), or name another save_dir"
                )
            self.known = True
            yield

    def save(
        self, state: TrainState, best: TrainState | None, marks: Marks, monitor: str, info: dict[str, Any]
    ) -> Path:
        """One checkpoint, with the metric if it was just validated; `best`, if it is that, under its own name."""
        metric = marks.validation.get(monitor) if marks.validated == state.position else None
        notes: dict[str, Any] = {**info, "marks": marks.as_json()}
        with self.open() as manager:
            if best is not None:  # first: a run that is killed in between validates again
                text = _BEST.format(name_of(state.position))
                save_checkpoint(manager.folder / BEST, best, {**notes, "weights": text})
            path = manager.save(state, metric=metric, info={**notes, "weights": _WEIGHTS})
        self.known, self.last = True, state.position
        return path

    def load(self, path: Path | None, like: TrainState) -> tuple[TrainState, Marks, dict[str, Any]]:
        """State, marks and notes of a file, or of the newest good one."""
        if path is None:
            with self.open() as manager:
                path = manager.latest()
                state = manager.restore(like, path)
        else:
            state, wrote = load_file(path, like)
            tell("load_checkpoint", path, wrote, like)
        assert path is not None  # or restore has raised
        info: dict[str, Any] = read_info(path, verify=False)["info"]
        if state.seed != like.seed:
            raise StructureError(
                f"Trainer: {path} is of a run with seed {state.seed}, got seed={like.seed}; give Trainer(seed="
                f"{state.seed}), which the order of the data depends on"
            )
        self.known = True
        return state, Marks.from_json(info.get("marks", {"validated": state.position})), info


def better(value: float, best: float | None, mode: str) -> bool:
    """Is a metric better than the best so far? What is not finite never is.

    >>> better(0.5, None, "min"), better(0.5, 0.4, "min"), better(0.5, 0.4, "max"), better(float("nan"), None, "min")
    (True, False, True, False)
    """
    return math.isfinite(value) and (best is None or (value < best if mode == "min" else value > best))


def monitored(found: Mapping[str, float], monitor: str) -> float:
    """The metric of a validation that is watched."""
    if monitor not in found:
        raise UsageError(
            f"Trainer: monitor={monitor!r} is not among what a validation measures, expected one of {sorted(found)}; "
            "report it as an aux of the loss"
        )
    return found[monitor]
