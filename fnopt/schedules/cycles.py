"""Schedules that go up and down: `one_cycle` with `one_cycle_momentum`, and `cosine_restarts`."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from ..record import at_most_one, below_one, hyper, non_negative, positive, record
from ..tensors import precise
from ..types import Hyper
from .checks import at_least, flag, one_of, updates
from .clock import half_cosine, values_at

Anneal: TypeAlias = Literal["cos", "linear"]


@record
class OneCycle:
    """Up to `peak` in the share `warmup` of `total` updates, then down, far below the start: super-convergence.

        value_t = a(peak / div_factor, peak, t / up)                                      t <= up = warmup total - 1
        value_t = a(peak, peak / div_factor / final_div_factor, (t - up) / (total - 1 - up))              t > up
        a(u, v, x) = v + (u - v) (1 + cos(pi x)) / 2   ("cos"),   u + (v - u) x   ("linear")

    With `three_phase`, it is back at its start at 2 up, and goes on to its end from there.

    >>> schedule = one_cycle(peak=1.0, total=100)
    >>> [round(schedule(t).item(), 6) for t in (0, 29, 64, 99, 1000)]
    [0.04, 1.0, 0.500002, 4e-06, 4e-06]

    Law: first, last and (where `up` is whole) highest value are met to the bit; it turns once.
    Equals torch's OneCycleLR for t < total; later it keeps its last value, where torch's raises.
    Raises HyperparameterError for a peak that is negative, a factor <= 0, a warmup outside [0, 1], and total < 1.
    Source: Smith & Topin 2018, arXiv:1708.07120 (three_phase), and fastai.
    """

    peak: Hyper = hyper(check=non_negative)
    total: int = attrs.field(validator=updates)
    warmup: Hyper = hyper(default=0.3, check=at_most_one)
    div_factor: Hyper = hyper(default=25.0, check=positive)
    final_div_factor: Hyper = hyper(default=1e4, check=positive)
    three_phase: bool = attrs.field(default=False, validator=flag)
    anneal: Anneal = attrs.field(default="cos", validator=one_of("cos", "linear"))

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        hypers = (self.peak, self.warmup, self.div_factor, self.final_div_factor)
        step, peak, warmup, div_factor, final_div_factor = values_at(step, *hypers)
        first = peak / div_factor
        down = [first] if self.three_phase else []
        return cycle(step, self.total, warmup, [first, peak, *down, first / final_div_factor], self.anneal)


@record
class OneCycleMomentum:
    """The momentum that goes with `one_cycle`: low where the rate is high.

        value_t = a(max_momentum, base_momentum, t / up)                                  t <= up = warmup total - 1
        value_t = a(base_momentum, max_momentum, (t - up) / (total - 1 - up))             t > up;  a as in one_cycle

    With `three_phase`, it is back at `max_momentum` at 2 up, and stays there.

    >>> beta = one_cycle_momentum(total=100)
    >>> optimizer = fnopt.AdamW(lr=fnopt.one_cycle(1e-3, total=100), betas=(beta, 0.99))
    >>> [round(beta(t).item(), 6) for t in (0, 29, 64, 99, 1000)]
    [0.95, 0.85, 0.9, 0.95, 0.95]

    Law: it is highest where the rate is lowest, and the other way round; all three are met to the bit.
    Equals the momentum (or beta 1) that torch's OneCycleLR sets, for t < total.
    Raises HyperparameterError for a momentum outside [0, 1), a warmup outside [0, 1], and total < 1.
    Source: Smith & Topin 2018, arXiv:1708.07120.
    """

    total: int = attrs.field(validator=updates)
    base_momentum: Hyper = hyper(default=0.85, check=below_one)
    max_momentum: Hyper = hyper(default=0.95, check=below_one)
    warmup: Hyper = hyper(default=0.3, check=at_most_one)
    three_phase: bool = attrs.field(default=False, validator=flag)
    anneal: Anneal = attrs.field(default="cos", validator=one_of("cos", "linear"))

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, low, high, warmup = values_at(step, self.base_momentum, self.max_momentum, self.warmup)
        last = [high] if self.three_phase else []
        return cycle(step, self.total, warmup, [high, low, high, *last], self.anneal)


@record
class CosineRestarts:
    """Half a cosine from `peak` to `end`, over and over; each period is `multiply` times as long as the one before.

        value_t = end + (peak - end) (1 + cos(pi (t - s_i) / (period multiply^i))) / 2     i the last with s_i <= t
        s_i = period (multiply^i - 1) / (multiply - 1)    (period i, if multiply is 1)

    >>> schedule = cosine_restarts(peak=1.0, period=10, multiply=2)
    >>> [round(schedule(t).item(), 4) for t in (0, 5, 9, 10, 20, 29, 30)]
    [1.0, 0.5, 0.0245, 1.0, 0.5, 0.0062, 1.0]

    Law: at each s_i the value is `peak`, to the bit, also after 2^60 updates: they are found with integers, where a
    logarithm would be one period off at some of them (torch's own step(epoch) is, at 121 for period 1, multiply 3).
    Equals torch's CosineAnnealingWarmRestarts(T_0=period, T_mult=multiply, eta_min=end).
    Raises HyperparameterError for a number that is negative or not finite, period < 1, and multiply < 1.
    Source: Loshchilov & Hutter 2017, SGDR, equation 5, arXiv:1608.03983.
    """

    peak: Hyper = hyper(check=non_negative)
    period: int = attrs.field(validator=updates)
    multiply: int = attrs.field(default=1, validator=at_least(1, "each period is so many times as long as the last"))
    end: Hyper = hyper(default=0.0, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, peak, end = values_at(step, self.peak, self.end)
        begin, length = period_of(step.clamp(min=0), self.period, self.multiply)
        return half_cosine(peak, end, (step.clamp(min=0) - begin) / length)


def cycle(step: Tensor, total: int, warmup: Tensor, corners: Sequence[Tensor], anneal: Anneal) -> Tensor:
    """From corner to corner; the first is met at step 0, the second at `up`, one between at 2 up, the last at the end.

    The places are torch's, to the bit: `up` need not be whole, and is below 0 where the warm-up is no update long.
    """
    t = step.clamp(0, total - 1).to(warmup.dtype)
    up = warmup * total - 1
    places = [torch.zeros_like(up), up, *([2 * up] if len(corners) == 4 else []), torch.full_like(up, total - 1)]
    value = corners[-1]
    for begin, end, start, stop in reversed(list(zip(places, places[1:], corners, corners[1:], strict=False))):
        long = end > begin
        done = torch.where(long, (t - begin) / torch.where(long, end - begin, 1.0), 1.0).clamp(0, 1)
        phase = half_cosine(start, stop, done) if anneal == "cos" else torch.lerp(start, stop, done)
        value = torch.where(t <= end, phase, value)
    return value


def period_of(step: Tensor, period: int, multiply: int) -> tuple[Tensor, Tensor]:
    """Where the period that `step` is in begins (exactly), and how long it is (in the device's widest float)."""
    if multiply == 1:
        return step - step % period, torch.full_like(step, period, dtype=precise(step.device))
    powers = multiply ** torch.arange(restarts(period, multiply), device=step.device)
    begins = period * ((powers - 1) // (multiply - 1))
    reached = begins <= step
    longest = torch.where(reached, powers, 1).amax().to(precise(step.device))
    return torch.where(reached, begins, 0).amax(), period * longest


def restarts(period: int, multiply: int) -> int:
    """How many periods begin at a step that an int64 can hold."""
    count = 0
    while max(multiply**count, period * ((multiply**count - 1) // (multiply - 1))) < 2**63:
        count += 1
    return count


one_cycle, one_cycle_momentum, cosine_restarts = OneCycle, OneCycleMomentum, CosineRestarts
