"""Schedules: hyperparameters that are pure functions of the number of updates done so far.

A Schedule is a record called as `schedule(step) -> value`. `step` is an int64 0-d tensor (what rules pass) or an int,
and counts updates from 0; the value is a 0-d tensor on its device, in float64 (float32 on devices without it). The
value at step t needs no replay, so a resumed run has nothing to restore. Numbers are leaves (a float, a 0-d tensor or
again a Schedule: batch them, differentiate by them, change them without a retrace); counts of updates are structure.

Public names are lower case, `linear(0.0, 0.1, steps=10)`, and give records that print as `Linear(...)`. Each keeps its
first value before step 0 and its last one after its end; `join` puts them one after the other.

>>> torch.vmap(linear(0.0, 1.0, steps=2))(torch.arange(4))          # a whole curve, to plot
tensor([0.0000, 0.5000, 1.0000, 1.0000], dtype=torch.float64)
"""

import math
import sys
from collections.abc import Iterable
from operator import ge
from typing import Any, TypeAlias, TypeVar, cast

import attrs
import torch
from torch import Tensor

from .errors import HyperparameterError
from .record import hyper, non_negative, record
from .tensors import at, precise
from .types import Hyper, Schedule

Field: TypeAlias = "attrs.Attribute[Any]"
T = TypeVar("T")


def _updates(instance: Any, attribute: Field, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise _error(instance, attribute, value, "must be an int >= 1", "it is a number of updates")


def _increasing(instance: Any, attribute: Field, value: Any) -> None:
    counts = cast(tuple[Any, ...], value)
    if not isinstance(value, tuple) or any(type(n) is not int for n in counts) or any(map(ge, (0, *counts), counts)):
        raise _error(instance, attribute, value, "must be increasing ints >= 1", "each is a number of updates")


def _schedules(instance: Any, attribute: Field, value: Any) -> None:
    parts = cast(tuple[Any, ...], value)
    if not parts or not isinstance(value, tuple) or not all(map(callable, parts)):
        raise _error(instance, attribute, value, "must be a list of Schedules", "a number is constant(number)")


def _one_fewer(instance: Any, attribute: Field, value: Any) -> None:
    parts = len(instance.schedules)
    if len(value) != parts - 1:
        expected = f"must be {parts - 1} numbers for {parts} schedules"
        raise _error(instance, attribute, value, expected, "each is the step at which the next schedule begins")


def _error(instance: Any, attribute: Field, value: Any, expected: str, fix: str) -> HyperparameterError:
    return HyperparameterError(f"{type(instance).__name__}: {attribute.name} {expected}, got {value!r}; {fix}")


def _as_tuple(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(values) if hasattr(values, "__iter__") else cast(Any, values)  # the validators name what is wrong


@record
class Constant:
    """The same value at every step.

    >>> constant(0.1), constant(0.1)(7)
    (Constant(value=0.1), tensor(0.1000, dtype=torch.float64))

    Raises HyperparameterError for a value that is negative or not finite.
    """

    value: Hyper = hyper(check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        return _tensors(step, self.value)[1]


@record
class Linear:
    """A straight line from `start` to `end`, which it reaches after `steps` updates and keeps.

        value_t = start + (end - start) min(t, steps) / steps

    >>> warm_up = linear(0.0, 0.1, steps=100)
    >>> [round(warm_up(t).item(), 4) for t in (0, 50, 100, 1000)]
    [0.0, 0.05, 0.1, 0.1]

    Equals torch's LinearLR (which takes factors of the base rate). Both ends are met to the bit.
    Raises HyperparameterError for a number that is negative or not finite, and for steps < 1.
    """

    start: Hyper = hyper(check=non_negative)
    end: Hyper = hyper(check=non_negative)
    steps: int = attrs.field(validator=_updates)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, start, end = _tensors(step, self.start, self.end)
        return torch.lerp(start, end, _fraction(step, self.steps))


@record
class Cosine:
    """Half a cosine from `peak` down to `end`, which it reaches after `steps` updates and keeps.

        value_t = end + (peak - end) (1 + cos(pi min(t, steps) / steps)) / 2

    >>> anneal = cosine(peak=1.0, steps=100)
    >>> [round(anneal(t).item(), 4) for t in (0, 25, 50, 100, 1000)]
    [1.0, 0.8536, 0.5, 0.0, 0.0]

    Equals torch's CosineAnnealingLR(T_max=steps, eta_min=end) up to `steps`; torch's then goes up again.
    Raises HyperparameterError for a number that is negative or not finite, and for steps < 1.
    Source: Loshchilov & Hutter 2017, SGDR, equation 5 without restarts, arXiv:1608.03983.
    """

    peak: Hyper = hyper(check=non_negative)
    steps: int = attrs.field(validator=_updates)
    end: Hyper = hyper(default=0.0, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, peak, end = _tensors(step, self.peak, self.end)
        return torch.lerp(end, peak, (1 + torch.cos(math.pi * _fraction(step, self.steps))) / 2)


@record
class StepDecay:
    """A staircase: `initial`, multiplied by `factor` after every `every` updates.

        value_t = initial factor^floor(t / every)

    >>> stairs = step_decay(0.1, every=30)
    >>> [round(stairs(t).item(), 4) for t in (0, 29, 30, 60)]
    [0.1, 0.1, 0.01, 0.001]

    Equals torch's StepLR. Stairs at steps of your choice: `multistep_decay`.
    Raises HyperparameterError for a number that is negative or not finite, and for every < 1.
    """

    initial: Hyper = hyper(check=non_negative)
    every: int = attrs.field(validator=_updates)
    factor: Hyper = hyper(default=0.1, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, initial, factor = _tensors(step, self.initial, self.factor)
        return initial * torch.pow(factor, step.clamp(min=0) // self.every)


@record
class MultistepDecay:
    """A staircase: `initial`, multiplied by `factor` at each of the `milestones`.

        value_t = initial factor^(how many milestones are <= t)

    >>> stairs = multistep_decay(0.1, milestones=[30, 80])
    >>> [round(stairs(t).item(), 4) for t in (0, 29, 30, 80, 1000)]
    [0.1, 0.1, 0.01, 0.001, 0.001]

    Equals torch's MultiStepLR. Stairs at regular steps: `step_decay`.
    Raises HyperparameterError for a number that is negative or not finite, and for milestones that do not increase.
    """

    initial: Hyper = hyper(check=non_negative)
    milestones: tuple[int, ...] = attrs.field(converter=_as_tuple, validator=_increasing)
    factor: Hyper = hyper(default=0.1, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, value, factor = _tensors(step, self.initial, self.factor)
        for milestone in self.milestones:
            value = torch.where(step < milestone, value, value * factor)
        return value


@record
class Join:
    """One schedule after the other; the next begins, from its own step 0, at each of the `boundaries`.

        value_t = schedules[i](t - b_i)     b_0 = 0, b_i = boundaries[i - 1], i the last with b_i <= t

    A part is only asked about its own steps, so what it would give outside of them (inf, nan) cannot leak.

    >>> schedule = join([linear(0.0, 1.0, steps=10), constant(1.0), cosine(1.0, steps=20)], boundaries=[10, 80])
    >>> [round(schedule(t).item(), 4) for t in (0, 5, 10, 79, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Equals torch's SequentialLR and optax's join_schedules.
    Raises HyperparameterError for parts that are no Schedules, boundaries that do not increase, or too few or many.
    """

    schedules: tuple[Schedule, ...] = attrs.field(converter=_as_tuple, validator=_schedules)
    boundaries: tuple[int, ...] = attrs.field(converter=_as_tuple, validator=[_increasing, _one_fewer])

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        (step,) = _tensors(step)
        begins, ends = (0, *self.boundaries), (*self.boundaries, sys.maxsize)
        owned = [step.clamp(begin, end - 1) - begin for begin, end in zip(begins, ends, strict=True)]
        value, *others = [_tensors(own, part)[1] for own, part in zip(owned, self.schedules, strict=True)]
        for boundary, other in zip(self.boundaries, others, strict=True):
            value = torch.where(step < boundary, value, other)
        return value


constant, linear, cosine, step_decay, multistep_decay, join = Constant, Linear, Cosine, StepDecay, MultistepDecay, Join


def warmup_cosine(peak: Hyper, warmup: int, total: int, start: Hyper = 0.0, end: Hyper = 0.0) -> Join | Cosine:
    """A line from `start` to `peak` over `warmup` updates, then half a cosine to `end` at `total`; constant afterwards.

        value_t = start + (peak - start) t / warmup                                          t <  warmup
        value_t = end + (peak - end) (1 + cos(pi (t - warmup) / (total - warmup))) / 2       t >= warmup

    >>> schedule = warmup_cosine(peak=3e-4, warmup=100, total=2_000)
    >>> [f"{schedule(t).item():.1e}" for t in (0, 50, 100, 1050, 2_000)]
    ['0.0e+00', '1.5e-04', '3.0e-04', '1.5e-04', '0.0e+00']
    >>> schedule == join([linear(0.0, 3e-4, steps=100), cosine(3e-4, steps=1_900)], boundaries=[100])
    True

    `total` counts the warm-up too, as in Hugging Face's get_cosine_schedule_with_warmup (which goes up again after it)
    and optax's warmup_cosine_decay_schedule. With start = 0 the first update has rate 0. Without a warm-up: `cosine`.
    Raises HyperparameterError for a number that is negative or not finite, and unless 0 <= warmup < total.
    """
    if type(warmup) is not int or type(total) is not int or not 0 <= warmup < total:
        raise HyperparameterError(
            f"warmup_cosine: warmup and total must be ints with 0 <= warmup < total, got warmup={warmup!r}, "
            f"total={total!r}; both are numbers of updates, and total counts the warm-up too"
        )
    descent = Cosine(peak, total - warmup, end)
    return Join((Linear(start, peak, warmup), descent), (warmup,)) if warmup else descent


def _fraction(step: Tensor, steps: int) -> Tensor:
    """How much of the way is done: 0 at step 0, 1 from `steps` on."""
    return step.clamp(0, steps).to(precise(step.device)) / steps


def _tensors(step: Tensor | int, *hypers: Hyper) -> list[Tensor]:
    """The step and the hyperparameters at it, as tensors: a Schedule is asked, a tensor moves to the step's device."""
    step = step if isinstance(step, Tensor) else torch.tensor(step)
    like = step.to(precise(step.device))
    return [step, *(v.to(like) if isinstance(v, Tensor) else torch.full_like(like, v) for v in at(step, *hypers))]
