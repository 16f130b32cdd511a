"""Schedules that begin with a warm-up: `warmup_cosine`, `warmup_stable_decay`, `inverse_sqrt`."""

from typing import Literal

import attrs
import torch
from torch import Tensor

from ..errors import HyperparameterError
from ..record import hyper, non_negative, record
from ..tensors import precise
from ..types import Hyper, Schedule
from .checks import updates
from .clock import fraction, values_at
from .joins import Join
from .shapes import Constant, Cosine, Linear, SqrtDecay


def warmup_cosine(peak: Hyper, warmup: int, total: int, start: Hyper = 0.0, end: Hyper = 0.0) -> Join | Cosine:
    """A line from `start` to `peak` over `warmup` updates, then half a cosine to `end` at `total`; constant afterwards.

        value_t = start + (peak - start) t / warmup                                          t <  warmup
        value_t = end + (peak - end) (1 + cos(pi (t - warmup) / (total - warmup))) / 2       t >= warmup

    Law: it is `join` of a line and half a cosine. It rises, if start < peak, then falls, if end < peak.

    >>> schedule = warmup_cosine(peak=3e-4, warmup=100, total=2_000)
    >>> [f"{schedule(t).item():.1e}" for t in (0, 50, 100, 1050, 2_000)]
    ['0.0e+00', '1.5e-04', '3.0e-04', '1.5e-04', '0.0e+00']
    >>> from fnopt import cosine, join, linear
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


def warmup_stable_decay(
    peak: Hyper,
    warmup: int,
    stable: int,
    decay: int,
    *,
    start: Hyper = 0.0,
    end: Hyper = 0.0,
    shape: Literal["linear", "cosine", "sqrt"] = "linear",
) -> Join:
    """WSD: a line from `start` to `peak`, then `stable` updates at `peak`, then down to `end`; constant afterwards.

        value_t = start + (peak - start) t / warmup                                 t < warmup
        value_t = peak                                                              t < warmup + stable
        value_t = peak + (end - peak) f(min(s, decay) / decay)                      s = t - warmup - stable >= 0
        f(x) = x  ("linear"),   (1 - cos(pi x)) / 2  ("cosine"),   sqrt(x)  ("sqrt")

    Law: before the decay, the value does not depend on `stable` or `decay`: a run can be extended from there.

    >>> schedule = warmup_stable_decay(peak=1.0, warmup=10, stable=80, decay=10)
    >>> [round(schedule(t).item(), 4) for t in (0, 5, 10, 90, 95, 100, 1000)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]

    Equals Hugging Face's get_wsd_schedule, whose min_lr_ratio is start / peak and end / peak.
    Raises HyperparameterError for a number that is negative or not finite, a shape of another name, and unless
    warmup >= 0, stable >= 0, decay >= 1.
    Source: Hu et al. 2024, MiniCPM, section 4, arXiv:2404.06395; the shapes: Hägele et al. 2024, arXiv:2405.18392.
    """
    counts = (warmup, stable, decay)
    if any(type(n) is not int for n in counts) or warmup < 0 or stable < 0 or decay < 1:
        raise HyperparameterError(
            "warmup_stable_decay: warmup, stable and decay must be ints with warmup >= 0, stable >= 0 and decay >= 1, "
            f"got warmup={warmup!r}, stable={stable!r}, decay={decay!r}; each is a number of updates"
        )
    if shape == "linear":
        descent: Schedule = Linear(peak, end, decay)
    elif shape == "cosine":
        descent = Cosine(peak, decay, end)
    elif shape == "sqrt":
        descent = SqrtDecay(peak, end, decay)
    else:
        raise HyperparameterError(
            f"warmup_stable_decay: shape must be 'linear', 'cosine' or 'sqrt', got {shape!r}; for another one, join "
            "linear, constant and a Schedule of your own"
        )
    rise = [(Linear(start, peak, warmup), warmup)] if warmup else []
    plain = [(Constant(peak), warmup + stable)] if stable else []
    before = [*rise, *plain]
    return Join([*(part for part, _ in before), descent], [boundary for _, boundary in before])


@record
class InverseSqrt:
    """A line from 0 to `peak` over `warmup` updates, then down with the square root of the step; it has no end.

        value_t = peak min(t / warmup, sqrt(warmup / t))

    >>> schedule = inverse_sqrt(peak=1.0, warmup=100)
    >>> [round(schedule(t).item(), 4) for t in (0, 50, 100, 400, 10_000)]
    [0.0, 0.5, 1.0, 0.5, 0.1]

    Law: from `warmup` on, four times the step is half the value.
    Equals fairseq's inverse_sqrt (warmup_init_lr = 0) and Hugging Face's get_inverse_sqrt_schedule. The paper's own
    (which counts from 1) at update t is this one at t + 1, with peak = 1 / sqrt(d_model warmup).
    Raises HyperparameterError for a number that is negative or not finite, and for warmup < 1.
    Source: Vaswani et al. 2017, equation 3, arXiv:1706.03762.
    """

    peak: Hyper = hyper(check=non_negative)
    warmup: int = attrs.field(validator=updates)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, peak = values_at(step, self.peak)
        later = step.clamp(min=self.warmup).to(precise(step.device))
        return peak * fraction(step, self.warmup) * torch.sqrt(self.warmup / later)  # one of the last two is exactly 1


inverse_sqrt = InverseSqrt
