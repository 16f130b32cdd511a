"""EarlyStopping: asks the trainer to stop when a metric has stopped improving."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ..errors import HyperparameterError, UsageError
from ..record import count
from .view import View


@attrs.define(eq=False)
class EarlyStopping:
    """Stop after `patience` validations in a row of which none was better than the best by more than `min_delta`.

    metric  a name among what a validation measures
    mode    is a better metric a smaller one ("min") or a larger one ("max")?

    A nan is never better. What it remembers is `state_dict()`, three numbers: a trainer keeps it in each checkpoint and
    gives it back with `load_state_dict`, so a resumed run stops where the uninterrupted one does. In a loop of your
    own, put it into `save_checkpoint(…, info=)`. Best and last weights are the business of the CheckpointManager.

    >>> from fnopt import TrainState
    >>> stopping, state = EarlyStopping("loss", patience=2), TrainState.of({"w": torch.ones(1)})
    >>> for position, loss in enumerate([0.9, 0.7, 0.8, 0.7], start=1):
    ...     state = fnopt.evolve(state, position=position)
    ...     print(stopping.on_validate(fnopt.callbacks.View(state, {}, validation={"loss": loss})))
    False
    False
    False
    True

    Raises HyperparameterError for arguments out of range, UsageError if the validation has no such metric.
    """

    metric: str = "loss"
    patience: int = attrs.field(default=3, validator=count)
    mode: Literal["min", "max"] = attrs.field(default="min", kw_only=True)
    min_delta: float = attrs.field(default=0.0, kw_only=True)
    _best: float | None = attrs.field(init=False, default=None)
    _waited: int = attrs.field(init=False, default=0)  # validations since
    _position: int = attrs.field(init=False, default=-1)  # of the last one, which counts once

    def __attrs_post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise HyperparameterError(f'EarlyStopping: mode must be "min" or "max", got {self.mode!r}')
        if not 0.0 <= self.min_delta < math.inf:
            raise HyperparameterError(f"EarlyStopping: min_delta must be finite and >= 0, got {self.min_delta!r}")

    def on_validate(self, view: View) -> bool:
        """Is it time to stop?"""
        if self.metric not in view.validation:
            raise UsageError(
                f"EarlyStopping: the validation has no metric {self.metric!r}, expected one of "
                f"{sorted(view.validation)}; report it as an aux of the loss"
            )
        if view.position != self._position:
            self._position = view.position
            self._see(view.validation[self.metric])
        return self._waited >= self.patience

    def state_dict(self) -> dict[str, float | int | None]:
        """What it remembers, as JSON takes it."""
        return {"best": self._best, "waited": self._waited, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        if state.keys() != self.state_dict().keys():
            raise UsageError(
                f"EarlyStopping: the state has {sorted(state)}, expected {sorted(self.state_dict())}; give what "
                "state_dict() returned"
            )
        self._best, self._waited, self._position = (state[key] for key in ("best", "waited", "position"))

    def _see(self, value: float) -> None:
        gain = math.inf if self._best is None else (self._best - value) * (1 if self.mode == "min" else -1)
        if gain > self.min_delta and math.isfinite(value):
            self._best, self._waited = value, 0
        else:
            self._waited += 1
