"""`join`: one schedule after the other."""

import sys

import attrs
import torch
from torch import Tensor

from ..record import record
from ..types import Schedule
from .checks import are_schedules, as_tuple, increasing, one_fewer
from .clock import values_at


@record
class Join:
    """One schedule after the other; the next begins, from its own step 0, at each of the `boundaries`.

        value_t = schedules[i](t - b_i)     b_0 = 0, b_i = boundaries[i - 1], i the last with b_i <= t

    Law: a part is only asked about its own steps, so what it would give outside of them (inf, nan) cannot leak.

    >>> from fnopt import constant, cosine, linear
    >>> schedule = join([linear(0.0, 1.0, steps=10), constant(1.0), cosine(1.0, steps=20)], boundaries=[10, 80])
    >>> [round(schedule(t).item(), 4) for t in (0, 5, 10, 79, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Equals torch's SequentialLR and optax's join_schedules.
    Raises HyperparameterError for parts that are no Schedules, boundaries that do not increase, or too few or many.
    """

    schedules: tuple[Schedule, ...] = attrs.field(converter=as_tuple, validator=are_schedules)
    boundaries: tuple[int, ...] = attrs.field(converter=as_tuple, validator=[increasing, one_fewer])

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        (step,) = values_at(step)
        begins, ends = (0, *self.boundaries), (*self.boundaries, sys.maxsize)
        owned = [step.clamp(begin, end - 1) - begin for begin, end in zip(begins, ends, strict=True)]
        value, *others = [values_at(own, part)[1] for own, part in zip(owned, self.schedules, strict=True)]
        for boundary, other in zip(self.boundaries, others, strict=True):
            value = torch.where(step < boundary, value, other)
        return value


join = Join
