"""One formula each: `constant`, `linear`, `cosine`, `polynomial`, `exponential`."""

import attrs
import torch
from torch import Tensor

from ..record import hyper, non_negative, positive, record
from ..types import Hyper
from .checks import updates
from .clock import fraction, half_cosine, values_at


@record
class Constant:
    """The same value at every step.

        value_t = value

    >>> constant(0.1), constant(0.1)(7)
    (Constant(value=0.1), tensor(0.1000, dtype=torch.float64))

    Raises HyperparameterError for a value that is negative or not finite.
    """

    value: Hyper = hyper(check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        return values_at(step, self.value)[1]


@record
class Linear:
    """A straight line from `start` to `end`, which it reaches after `steps` updates and keeps.

        value_t = start + (end - start) min(t, steps) / steps

    >>> warm_up = linear(0.0, 0.1, steps=100)
    >>> [round(warm_up(t).item(), 4) for t in (0, 50, 100, 1000)]
    [0.0, 0.05, 0.1, 0.1]

    Law: between its ends, which it meets to the bit, it never turns.
    Equals torch's LinearLR (which takes factors of the base rate).
    Raises HyperparameterError for a number that is negative or not finite, and for steps < 1.
    """

    start: Hyper = hyper(check=non_negative)
    end: Hyper = hyper(check=non_negative)
    steps: int = attrs.field(validator=updates)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, start, end = values_at(step, self.start, self.end)
        return torch.lerp(start, end, fraction(step, self.steps))


@record
class Cosine:
    """Half a cosine from `peak` down to `end`, which it reaches after `steps` updates and keeps.

        value_t = end + (peak - end) (1 + cos(pi min(t, steps) / steps)) / 2

    >>> anneal = cosine(peak=1.0, steps=100)
    >>> [round(anneal(t).item(), 4) for t in (0, 25, 50, 100, 1000)]
    [1.0, 0.8536, 0.5, 0.0, 0.0]

    Law: it never turns, and meets both ends to the bit; half-way it is half-way.
    Equals torch's CosineAnnealingLR(T_max=steps, eta_min=end) up to `steps`; torch's then goes up again.
    Raises HyperparameterError for a number that is negative or not finite, and for steps < 1.
    Source: Loshchilov & Hutter 2017, SGDR, equation 5 without restarts, arXiv:1608.03983.
    """

    peak: Hyper = hyper(check=non_negative)
    steps: int = attrs.field(validator=updates)
    end: Hyper = hyper(default=0.0, check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, peak, end = values_at(step, self.peak, self.end)
        return half_cosine(peak, end, fraction(step, self.steps))


@record
class Polynomial:
    """A power of the way that is left, from `start` to `end`, which it reaches after `steps` updates and keeps.

        value_t = end + (start - end) (1 - min(t, steps) / steps)^power

    >>> decay = polynomial(1.0, 0.0, steps=100, power=2.0)
    >>> [round(decay(t).item(), 4) for t in (0, 50, 90, 100, 1000)]
    [1.0, 0.25, 0.01, 0.0, 0.0]

    Law: between its ends, which it meets to the bit, it never turns; with power 1 it is `linear`.
    Equals torch's PolynomialLR(total_iters=steps), which ends at 0, and optax's polynomial_schedule.
    Raises HyperparameterError for a number that is negative or not finite, power = 0, and steps < 1.
    """

    start: Hyper = hyper(check=non_negative)
    end: Hyper = hyper(check=non_negative)
    steps: int = attrs.field(validator=updates)
    power: Hyper = hyper(default=1.0, check=positive)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, start, end, power = values_at(step, self.start, self.end, self.power)
        return torch.lerp(end, start, torch.pow(1 - fraction(step, self.steps), power))


@record
class SqrtDecay:
    """From `start` to `end`, which it reaches after `steps` updates and keeps: steep at first, then ever flatter.

        value_t = start + (end - start) sqrt(min(t, steps) / steps)

    >>> decay = SqrtDecay(1.0, 0.0, steps=100)
    >>> [round(decay(t).item(), 4) for t in (0, 1, 25, 100, 1000)]
    [1.0, 0.9, 0.5, 0.0, 0.0]

    Law: between its ends, which it meets to the bit, it never turns.
    Raises HyperparameterError for a number that is negative or not finite, and for steps < 1.
    Source: Hägele et al. 2024, "1-sqrt", section 3, arXiv:2405.18392.
    """

    start: Hyper = hyper(check=non_negative)
    end: Hyper = hyper(check=non_negative)
    steps: int = attrs.field(validator=updates)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, start, end = values_at(step, self.start, self.end)
        return torch.lerp(start, end, torch.sqrt(fraction(step, self.steps)))


@record
class Exponential:
    """`initial`, multiplied by `gamma` after each update.

        value_t = initial gamma^t

    >>> decay = exponential(1.0, gamma=0.9)
    >>> [round(decay(t).item(), 4) for t in (0, 1, 2, 100)]
    [1.0, 0.9, 0.81, 0.0]

    Law: value_(s + t) = value_s gamma^t. With gamma > 1 it grows (to find a good rate, say), in the end to inf.
    Equals torch's ExponentialLR. A stair every n updates: `step_decay`.
    Raises HyperparameterError for a number that is negative or not finite.
    """

    initial: Hyper = hyper(check=non_negative)
    gamma: Hyper = hyper(check=non_negative)

    def __call__(self, step: Tensor | int, /) -> Tensor:
        """The value, after `step` updates."""
        step, initial, gamma = values_at(step, self.initial, self.gamma)
        return initial * torch.pow(gamma, step.clamp(min=0))


constant, linear, cosine, polynomial, exponential = Constant, Linear, Cosine, Polynomial, Exponential
