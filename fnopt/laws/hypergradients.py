"""Laws of training as a function of its numbers: it can be differentiated, without a change to what it computes."""

from typing import Any

import torch
from torch import Tensor

from .._torch import tree_leaves, tree_map
from ..tensors import tmap
from .bits import apply, real, require, require_same
from .case import Case
from .kinds import kind_of
from .law import law
from .members import has_numbers, in_tensors


@law("optimizer", "transform", values="tame", where=[has_numbers])
def law_hypergradients_are_finite(thing: Any, case: Case) -> None:
    """The results differentiate to finite numbers: by every number of the record, by params and by gradients.

    Also where a gradient or a second moment is exactly 0, in float64. Recording the graph changes no bit.
    """
    params, grads = case.doubled().fresh()
    numbers = in_tensors(thing)
    plain = _last(numbers, params, grads)
    tracked = tree_map(_tracked, numbers)
    params, grads = tmap(_tracked, params), [tmap(_tracked, gradient) for gradient in grads]
    result = _last(tracked, params, grads)
    require_same(tmap(torch.detach, result), plain, "the result, recorded", "so it is without a graph")
    total = sum(real(leaf).sum() for leaf in result.values() if leaf.numel())
    if not isinstance(total, Tensor) or not total.requires_grad:
        return
    leaves = {f"number {place}": leaf for place, leaf in enumerate(tree_leaves(tracked)) if _is_tracked(leaf)}
    leaves |= {f"the initial {name}": leaf for name, leaf in params.items()}
    leaves |= {f"gradient {update} of {name}": leaf for update, g in enumerate(grads) for name, leaf in g.items()}
    leaves = {who: leaf for who, leaf in leaves.items() if leaf.numel()}
    slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    for (who, leaf), slope in zip(leaves.items(), slopes, strict=True):
        require(real(slope).isfinite().all(), "the derivative by {}, which is {}, is {}", who, leaf, slope)


def _last(thing: Any, params: dict[str, Tensor], grads: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    state, result = thing.init_state(params), params
    for gradient in grads:
        result, state = apply(thing, gradient, state, params)
        params = result if kind_of(thing) == "optimizer" else params
    return result


def _tracked(leaf: Any) -> Any:
    floating = isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    return leaf.detach().clone().requires_grad_() if floating else leaf


def _is_tracked(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad
