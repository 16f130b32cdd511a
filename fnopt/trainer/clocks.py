"""The clock that a scheduler counts, and schedules on it."""

from typing import Literal, cast

import attrs
import torch
from torch import Tensor

from ..errors import HyperparameterError
from ..record import record
from ..types import Schedule

Interval = Literal["update", "epoch"]


@record
class Table:
    """A Schedule of values for steps 0, 1, …; the last one stays.

    >>> Table(torch.tensor([0.3, 0.2]))(torch.tensor(5))
    tensor(0.2000)
    """

    values: Tensor

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        place = torch.as_tensor(step, device=self.values.device).clamp(0, len(self.values) - 1)
        return self.values.index_select(0, place.reshape(-1)).reshape(place.shape)


@record
class PerEpoch:
    """A Schedule on the clock of epochs: `schedule(updates // updates_per_epoch)`.

    >>> PerEpoch(Table(torch.tensor([0.3, 0.2])), 10)(torch.tensor(9))
    tensor(0.3000)
    """

    schedule: Schedule
    updates_per_epoch: int

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value in the epoch of this update."""
        return self.schedule(torch.as_tensor(step) // self.updates_per_epoch)


@attrs.frozen
class Clock:
    """What a scheduler counts, how many there are, and where values are kept."""

    interval: Interval | None
    updates: int
    updates_per_epoch: int | None
    device: torch.device

    def __attrs_post_init__(self) -> None:
        if self.interval not in (None, "update", "epoch"):
            raise HyperparameterError(
                f'Trainer: scheduler_interval must be "update" or "epoch", got {self.interval!r}; it is what the '
                "scheduler counts"
            )
        if self.interval == "epoch" and self.updates_per_epoch is None:
            raise HyperparameterError(
                'Trainer: scheduler_interval="epoch", and train_loader has no length, expected one; use "update"'
            )

    @property
    def ticks(self) -> int:
        """How often it ticks in the run."""
        if self.interval == "epoch":
            return -(-self.updates // cast(int, self.updates_per_epoch))
        return self.updates

    def of(self, schedule: Schedule) -> Schedule:
        """A schedule of ticks as one of updates."""
        return PerEpoch(schedule, cast(int, self.updates_per_epoch)) if self.interval == "epoch" else schedule
