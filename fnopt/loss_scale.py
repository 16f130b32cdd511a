"""Loss scaling as pure state: the backward pass is seeded with the scale, and nobody ever sees a scaled gradient.

The state also counts skipped updates, whatever the scale: `scale` (float32), `good` (applied in a row since the scale
last moved), `skipped` (all of them) and `skipped_in_a_row`, int64 each, 0-d.
"""

from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from .errors import HyperparameterError
from .record import count, hyper, positive, record
from .tensors import device_of, precise
from .types import Tensors


class LossScale(Protocol):
    """A rule for the factor that the loss is multiplied with before the backward pass."""

    def init_state(self, params: Tensors, /) -> dict[str, Tensor]: ...
    def update(self, state: Tensors, finite: Tensor, applied: Tensor, /) -> dict[str, Tensor]:
        """`finite`: nothing overflowed. `applied`: the update was made (not so when there was no weight)."""
        ...


@record
class StaticLossScale:
    """A scale that never changes; 1 is no scaling at all.

    >>> StaticLossScale(1024.0).init_state({})["scale"]
    tensor(1024.)
    """

    scale: float = hyper(default=1.0, check=positive)

    def init_state(self, params: Tensors) -> dict[str, Tensor]:
        """The scale, and nothing skipped yet."""
        return _begin(self.scale, params)

    def update(self, state: Tensors, finite: Tensor, applied: Tensor) -> dict[str, Tensor]:
        """The same scale; skips are counted."""
        good = torch.where(finite, state["good"] + 1, 0)
        return {"scale": state["scale"], "good": good, **_count(state, applied)}


def _above_one(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """value > 1 and finite."""
    if not 1.0 < value < float("inf"):
        raise HyperparameterError(f"DynamicLossScale: {attribute.name} must be finite and > 1, got {value!r}")


def _inside_unit(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """0 < value < 1."""
    if not 0.0 < value < 1.0:
        raise HyperparameterError(f"DynamicLossScale: {attribute.name} must be in (0, 1), got {value!r}")


@record
class DynamicLossScale:
    """Back off at once when something overflows, grow after `growth_interval` updates without overflow.

    The rule of torch.amp.GradScaler, with its defaults; as there, a growth to infinity is not made.

    >>> rule = DynamicLossScale(growth_interval=1)
    >>> yes, no = torch.tensor(True), torch.tensor(False)
    >>> state = rule.init_state({})
    >>> rule.update(state, yes, yes)["scale"], rule.update(state, no, no)["scale"]
    (tensor(131072.), tensor(32768.))

    Raises HyperparameterError for numbers out of range. Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """

    init_scale: float = hyper(default=65536.0, check=positive)
    growth_factor: float = hyper(default=2.0, check=_above_one)
    backoff_factor: float = hyper(default=0.5, check=_inside_unit)
    growth_interval: int = attrs.field(default=2000, validator=count)

    def init_state(self, params: Tensors) -> dict[str, Tensor]:
        """The initial scale, and nothing skipped yet."""
        return _begin(self.init_scale, params)

    def update(self, state: Tensors, finite: Tensor, applied: Tensor) -> dict[str, Tensor]:
        """The next scale; skips are counted."""
        scale, good = state["scale"], state["good"] + 1
        exact = scale.to(precise(scale.device))  # torch multiplies in float64 and rounds once
        grown, lower = (exact * self.growth_factor).to(scale), (exact * self.backoff_factor).to(scale)
        due = good >= self.growth_interval
        return {
            "scale": torch.where(finite, torch.where(due & torch.isfinite(grown), grown, scale), lower),
            "good": torch.where(finite & ~due, good, 0),
            **_count(state, applied),
        }


def _begin(scale: float, params: Tensors) -> dict[str, Tensor]:
    device = device_of(params)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return {
        "scale": torch.full((), scale, dtype=torch.float32, device=device),
        "good": zero,
        "skipped": zero.clone(),
        "skipped_in_a_row": zero.clone(),
    }


def _count(state: Tensors, applied: Tensor) -> dict[str, Tensor]:
    return {
        "skipped": state["skipped"] + ~applied,
        "skipped_in_a_row": torch.where(applied, 0, state["skipped_in_a_row"] + 1),
    }
