"""Parts: the pure pieces that a Trainer was made of, and what it asks of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import attrs
import torch
from torch import nn

from ..loop import evaluate, run
from ..record import evolve
from ..schedules.plateaus import Plateau
from ..state import TrainState
from ..step import StepFn
from ..tensors import device_of
from ..types import Metrics
from .plan import Plan, counted, rates_of

Override: TypeAlias = Mapping[str, float | Sequence[float]]


@attrs.frozen(kw_only=True)
class Parts:
    """What a Trainer is made of.

    data, held_out  begin anywhere, and are iterated; held_out is None where nothing is validated
    updates, epoch  of the whole run, and of one epoch (None where that is unknown)
    limit           the argument that says how many
    dtype           that autocast has; None for float32
    notes           what was decided for the user
    reporters       the callbacks that a Trainer has by itself
    rules           of `run`, for steps that are skipped
    """

    model: nn.Module
    loss: Callable[..., Any]
    step: StepFn[Any]
    state: TrainState
    data: Any
    held_out: Any
    updates: int
    epoch: int | None
    limit: str
    plateau: Plateau | None
    dtype: torch.dtype | None
    notes: tuple[str, ...]
    reporters: tuple[Any, ...]
    rules: dict[str, Any]

    def steps(self, step: StepFn[Any], state: TrainState, data: Any) -> Iterator[tuple[TrainState, Metrics]]:
        """The loop."""
        return run(step, state, data, self.updates, **self.rules)

    def measured(self, step: StepFn[Any], state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
        """What a validation finds, of the weights that the optimizer evaluates, in the precision of the run."""
        device = device_of(state.params).type
        with torch.autocast(device, self.dtype) if self.dtype else nullcontext():
            return evaluate(self.model, self.loss, averaged(step, state), batches)

    def planned(self, optimizer: Any, done: int, override: Override) -> Plan:
        """What the run is going to do."""
        changed = ", ".join(f"{name}={value}" for name, value in override.items())
        notes = (*self.notes, f"override: {changed}") if changed else self.notes
        rates, numbers = rates_of(optimizer, self.updates), counted(self.data, self.updates)
        return Plan(updates=self.updates, done=done, rates=rates, notes=notes, **numbers)


def averaged(step: StepFn[Any], state: TrainState) -> TrainState:
    """The state with the weights that the optimizer evaluates for params."""
    return evolve(state, params=step.eval_params(state))
