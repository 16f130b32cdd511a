"""One training as several programs, to be run in turns: a loop over torch.optim, and steps of fnopt."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import attrs
import torch
from torch import nn

from ..errors import UsageError
from ..rules.labels import decay_labels
from ..state import TrainState, to_device
from ..step import StepFn
from ..types import Metrics, Tensors
from .measure import bytes_of
from .task import Task

Groups = list[dict[str, Any]]


def parts_of(item: Any) -> list[Any]:
    """The micro-batches of an item of the data."""
    return cast(list[Any], item) if isinstance(item, list) else [item]


class Program(Protocol):
    """A run that goes on by one update at a time."""

    def update(self, item: Any, /) -> float:
        """Train on one item of the data; the mean loss that it had."""
        ...

    def params(self) -> Tensors:
        """The weights now, which the next update may overwrite."""
        ...

    def held(self) -> int:
        """Bytes of tensors between two updates: weights, and what the optimizer remembers."""
        ...


class ByTorch:
    """The loop that a PyTorch user writes, around any torch.optim.Optimizer."""

    def __init__(
        self,
        task: Task,
        make: Callable[[Groups], torch.optim.Optimizer],
        rates: Sequence[float],
        weight_decay: float,
        clip: float | None = None,
    ):
        self.model, self.loss = copy.deepcopy(task.model), task.loss
        self.rates, self.clip, self.done = rates, clip, 0
        labels, named = decay_labels(self.model), dict(self.model.named_parameters())
        decays = {"decay": weight_decay, "no_decay": 0.0}
        members = {tag: [named[name] for name, own in labels.items() if own == tag] for tag in decays}
        groups = [{"params": members[tag], "weight_decay": decay} for tag, decay in decays.items() if members[tag]]
        self.optimizer = make(groups)

    def update(self, item: Any) -> float:
        """Backward for each micro-batch, clip, step; the micro-batches weigh the same."""
        parts, total = parts_of(item), torch.zeros(())
        for part in parts:
            loss, weight, *_ = self.loss(self.model, part)
            mean = loss / (weight * len(parts))
            mean.backward()
            total = total.to(mean) + mean.detach()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[min(self.done, len(self.rates) - 1)]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return float(total)

    def params(self) -> Tensors:
        """Those of the module."""
        return {name: param.detach() for name, param in self.model.named_parameters()}

    def held(self) -> int:
        """Weights and optimizer state; gradients are freed after each update."""
        return bytes_of([self.params(), [list(state.values()) for state in self.optimizer.state.values()]])


class ByStep:
    """A step of fnopt: `state, metrics = step.step(state, item)`."""

    def __init__(self, task: Task, step: StepFn[Any]):
        self.model, self.step = task.model, step
        self.state: TrainState = step.init_state(task.model)
        self.metrics: Metrics = {}

    def update(self, item: Any) -> float:
        """One call."""
        self.state, self.metrics = self.step.step(self.state, item)
        refuse_fallback(self.step)
        return float(self.metrics["loss"])

    def params(self) -> Tensors:
        """Those of the state."""
        return self.state.params

    def held(self) -> int:
        """The state, and the module's own weights, which the loss is written with and which are not used."""
        return bytes_of([self.state, list(self.model.parameters())])


def refuse_fallback(step: Any) -> None:
    """An error for a compiled step that runs eagerly: it would be measured under a wrong name."""
    stats = getattr(step, "stats", None)
    if stats is not None and stats.mode != "compiled":
        why = stats.fallback or "a shape that it met once"
        raise UsageError(f"experiments: the compiled step runs eagerly ({why}), expected kernels; add --eager")


@attrs.frozen
class Turn:
    """One update of one program."""

    loss: float
    seconds: float


def in_turns(task: Task, programs: Mapping[str, Program], updates: int) -> Iterator[dict[str, Turn]]:
    """Each program makes its next update on the same item, one after the other; another one begins each time.

    What makes the machine slow for a while is so shared by all.
    """
    names, items = list(programs), task.data.iter_from(0)
    for place in range(updates):
        item, turns = to_device(next(items), task.device), dict[str, Turn]()
        shift = place % len(names)
        for name in names[shift:] + names[:shift]:
            began = time.perf_counter()
            loss = programs[name].update(item)
            turns[name] = Turn(loss, time.perf_counter() - began)
        yield {name: turns[name] for name in names}
