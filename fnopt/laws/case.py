"""What a law is tried on. Each prints as code, so that a failure can be pasted into a test."""

import math
from collections.abc import Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from ..tensors import tmap
from ..types import Tensors


@attrs.frozen(eq=False, repr=False)
class Case:
    """Params, and the gradients of one update or more: what laws of optimizers and transforms are tried on.

    >>> Case(params={"w": torch.tensor([0.1, torch.nan])}, grads=[{"w": torch.zeros(2)}])
    Case(params={'w': torch.tensor([0.1, torch.nan])}, grads=[{'w': torch.tensor([0.0, 0.0])}])
    """

    params: Tensors
    grads: Sequence[Tensors]

    def fresh(self) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Copies to work on: whatever an optimizer does to them, the case stays as it was drawn."""
        return tmap(torch.clone, self.params), [tmap(torch.clone, grads) for grads in self.grads]

    def __repr__(self) -> str:
        grads = ", ".join(_dict(grads) for grads in self.grads)
        return f"Case(params={_dict(self.params)}, grads=[{grads}])"


@attrs.frozen(eq=False)
class Steps:
    """Some numbers of updates: what laws of schedules are tried on."""

    steps: Sequence[int]

    def clocks(self) -> list[Tensor]:
        """The same as int64 0-d tensors, as a rule passes them to its schedules."""
        return [torch.tensor(step) for step in self.steps]


def code(leaf: Tensor) -> str:
    """The expression that makes this tensor, to the bit (but for what is inside a nan) and with its strides."""
    dtype = "" if leaf.dtype == torch.float32 else f", dtype={leaf.dtype}"
    if not leaf.numel():
        return f"torch.zeros({tuple(leaf.shape)}{dtype})"
    if leaf.dtype.is_complex:
        made = f"torch.view_as_complex({code(torch.view_as_real(leaf).contiguous())})"
    else:
        made = f"torch.tensor({_numbers(cast(Any, leaf).tolist(), leaf.dtype)}{dtype})"
    return made if leaf.is_contiguous() else f"{made}.mT.contiguous().mT"


def _dict(tensors: Tensors) -> str:
    return "{" + ", ".join(f"{name!r}: {code(leaf)}" for name, leaf in tensors.items()) + "}"


def _numbers(values: Any, dtype: torch.dtype) -> str:
    if isinstance(values, list):
        return "[" + ", ".join(_numbers(value, dtype) for value in cast(list[Any], values)) + "]"
    if not isinstance(values, float) or not math.isfinite(values):
        return str(values).replace("nan", "torch.nan").replace("inf", "torch.inf")
    shorter = (repr(float(f"{values:.{digits}g}")) for digits in range(1, 17))
    return next((text for text in shorter if torch.tensor(float(text), dtype=dtype).item() == values), repr(values))
