"""Laws of schedules: functions of the number of updates, and of nothing else."""

from typing import Any

import torch

from ..randomness import seeded
from .bits import require, require_same, unchanged
from .case import Steps
from .fields import fields_of
from .law import law
from .strategies import Drawn


@law("schedule")
def law_schedule_is_pure(thing: Any, case: Steps) -> None:
    """A call changes neither the step, nor the schedule's own tensors, nor the global generator."""
    for step in case.clocks():
        with unchanged(thing=thing, steps=[step]):
            thing(step)


@law("schedule")
def law_schedule_has_random_access(thing: Any, case: Steps) -> None:
    """The value at a step has the same bits whichever steps were asked before, in any order."""
    forth = [thing(step) for step in case.clocks()]
    with seeded(1, torch.device("cpu")):
        back = [thing(step) for step in reversed(case.clocks())]
    require_same(list(reversed(back)), forth, "values, last to first", "so they are first to last")


@law("schedule")
def law_schedule_gives_one_finite_number(thing: Any, case: Steps) -> None:
    """The value is a floating-point 0-d tensor on the step's device, finite, and needs no gradient."""
    for step in case.clocks():
        value = thing(step)
        require(
            isinstance(value, torch.Tensor), f"at step {step} the value is a {type(value).__name__}, expected a tensor"
        )
        form = (value.dtype.is_floating_point, value.ndim, value.device, value.requires_grad)
        require(form == (True, 0, step.device, False), f"at step {step} the value is {value!r}, expected floating, 0-d")
        require(value.isfinite(), f"at step {step} the value is {value}")


@law("schedule")
def law_schedule_under_vmap_is_a_loop(thing: Any, case: Steps) -> None:
    """A vector of steps under vmap gives the value at each.

    Within 4 ulp of the largest of them and the first: a vectorised cos or pow may round otherwise.
    """
    clocks = case.clocks()
    curve = torch.vmap(thing)(torch.stack(clocks))
    alone = torch.stack([thing(step) for step in clocks])
    bound = 4 * torch.finfo(alone.dtype).eps * max(alone.abs().max(), thing(torch.tensor(0)).abs())
    require(curve.dtype == alone.dtype, f"under vmap the values are {curve.dtype}, alone {alone.dtype}")
    require(((curve - alone).abs() <= bound).all(), f"under vmap the values are {curve}, alone {alone}")


RATES = ("value", "initial", "start", "end", "peak", "base_momentum", "max_momentum", "lr", "min_lr")
GROWTH = ("gamma", "factor")


def is_made_of_rates(thing: Any, _: Drawn) -> str:
    """Only schedules of the field's usual fields, which do not grow without end."""
    numbers = _numbers(thing, GROWTH)
    if any(number > 1 for number in numbers):
        return "grows"
    return "" if _numbers(thing, RATES) else f"has no field named as a rate: {', '.join(RATES)}"


@law("schedule", where=[is_made_of_rates])
def law_schedule_stays_within_its_rates(thing: Any, case: Steps) -> None:
    """The value is at least 0 and at most the largest rate that the schedule is made of (peak, start, end, …).

    Up to 4 ulp.
    """
    largest = max(_numbers(thing, RATES))
    for step in case.clocks():
        value = float(thing(step))
        slack = 4 * torch.finfo(thing(step).dtype).eps * largest
        require(0.0 <= value <= largest + slack, f"at step {step} the value is {value!r}, outside 0 to {largest!r}")


def _numbers(thing: Any, names: tuple[str, ...]) -> list[float]:
    fields = [value for name, value in fields_of(thing) if name in names]
    return [float(value) for value in fields if isinstance(value, float | int | torch.Tensor)]
