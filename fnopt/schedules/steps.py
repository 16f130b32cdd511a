"""Staircases: `step_decay` at regular steps, `multistep_decay` at steps of your choice."""

import attrs
import torch
from torch import Tensor

from ..record import hyper, non_negative, record
from ..types import Hyper
from .checks import as_tuple, increasing, updates
from .clock import values_at


@record
class StepDecay:
    """A staircase: `initial`, multiplied by `factor` after every `every` updates.

        value_t = initial factor^floor(t / every)

    Law: after `every` more updates the value is `factor` times what it was.

    >>> stairs = step_decay(0.1, every=30)
    >>> [round(stairs(t).item(), 4) for t in (0, 29, 30, 60)]
    [0.1, 0.1, 0.01, 0.001]

    Equals torch's StepLR. Stairs at steps of your choice: `multistep_decay`.
    Raises HyperparameterError for a number that is negative or not finite, and for every < 1.
    """

    initial: Hyper = hyper(check=non_negative)
    every: int = attrs.field(validator=updates)
    factor: Hyper = hyper(default=0.1, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, initial, factor = values_at(step, self.initial, self.factor)
        return initial * torch.pow(factor, step.clamp(min=0) // self.every)


@record
class MultistepDecay:
    """A staircase: `initial`, multiplied by `factor` at each of the `milestones`.

        value_t = initial factor^(how many milestones are <= t)

    Law: the value is `initial` before the first milestone, and never changes between two.

    >>> stairs = multistep_decay(0.1, milestones=[30, 80])
    >>> [round(stairs(t).item(), 4) for t in (0, 29, 30, 80, 1000)]
    [0.1, 0.1, 0.01, 0.001, 0.001]

    Equals torch's MultiStepLR. Stairs at regular steps: `step_decay`.
    Raises HyperparameterError for a number that is negative or not finite, and for milestones that do not increase.
    """

    initial: Hyper = hyper(check=non_negative)
    milestones: tuple[int, ...] = attrs.field(converter=as_tuple, validator=increasing)
    factor: Hyper = hyper(default=0.1, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, value, factor = values_at(step, self.initial, self.factor)
        for milestone in self.milestones:
            value = torch.where(step < milestone, value, value * factor)
        return value


step_decay, multistep_decay = StepDecay, MultistepDecay
