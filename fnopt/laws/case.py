"""What a law is tried on. Each prints as code, so that a failure can be pasted into a test."""

import math
from collections.abc import Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from ..record import evolve
from ..state import TrainState
from ..tensors import tensor_map, tmap
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

    def doubled(self) -> "Case":
        """The same in float64, or complex128."""
        params, *grads = (tmap(_double, tensors) for tensors in (self.params, *self.grads))
        return Case(params, grads)

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


@attrs.frozen(eq=False, repr=False)
class Calls:
    """A run at its beginning, and the batches of its calls: what laws of GradFns and steps are tried on.

    >>> Calls(params={"w": torch.ones(2)}, batches=[(torch.zeros(1), torch.tensor(3))])
    Calls(params={'w': torch.tensor([1.0, 1.0])}, batches=[(torch.tensor([0.0]), torch.tensor(3, dtype=torch.int64))])
    """

    params: Tensors
    batches: Sequence[Any]
    buffers: Tensors = attrs.field(factory=dict[str, Tensor])
    seed: int = 0

    def begin(self, thing: Any) -> tuple[TrainState, list[Any]]:
        """A state of the step (or for the GradFn), and copies of the batches."""
        params, buffers = tmap(torch.clone, self.params), tmap(torch.clone, self.buffers)
        if hasattr(thing, "init_state"):
            state = thing.init_state(params, seed=self.seed)
            for size in state.updates.shape:  # an ensemble
                buffers = {name: torch.stack([leaf] * size) for name, leaf in buffers.items()}
            state = evolve(state, buffers=buffers)
        else:
            state = TrainState.of(params, buffers=buffers, seed=self.seed)
        return state, [tensor_map(torch.clone, batch) for batch in self.batches]

    def doubled(self) -> "Calls":
        """The same in float64: every floating-point tensor of params, buffers and batches."""
        params, buffers = tmap(_double, self.params), tmap(_double, self.buffers)
        return Calls(params, tensor_map(_double, list(self.batches)), buffers, self.seed)

    def __repr__(self) -> str:
        batches = ", ".join(tree_code(batch) for batch in self.batches)
        rest = f", buffers={_dict(self.buffers)}" if self.buffers else ""
        rest += f", seed={self.seed}" if self.seed else ""
        return f"Calls(params={_dict(self.params)}, batches=[{batches}]{rest})"


def tree_code(tree: Any) -> str:
    """The expression that makes a batch: tensors in tuples, lists and dicts; else its repr."""
    if isinstance(tree, Tensor):
        return code(tree)
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {tree_code(part)}" for key, part in cast(dict[Any, Any], tree).items()) + "}"
    if isinstance(tree, list):
        return f"[{', '.join(map(tree_code, cast(list[Any], tree)))}]"
    if type(tree) is tuple:
        parts = cast(tuple[Any, ...], tree)
        return f"({', '.join(map(tree_code, parts))}{',' * (len(parts) == 1)})"
    return repr(tree)


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


def _double(leaf: Tensor) -> Tensor:
    if leaf.is_complex():
        return leaf.to(torch.complex128)
    return leaf.double() if leaf.is_floating_point() else leaf


def _numbers(values: Any, dtype: torch.dtype) -> str:
    if isinstance(values, list):
        return "[" + ", ".join(_numbers(value, dtype) for value in cast(list[Any], values)) + "]"
    if not isinstance(values, float) or not math.isfinite(values):
        return str(values).replace("nan", "torch.nan").replace("inf", "torch.inf")
    shorter = (repr(float(f"{values:.{digits}g}")) for digits in range(1, 17))
    return next((text for text in shorter if torch.tensor(float(text), dtype=dtype).item() == values), repr(values))
