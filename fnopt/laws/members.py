"""Laws of vmap: many members at once are each of them alone."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._torch import tree_flatten, tree_leaves, tree_map, tree_unflatten
from ..tensors import tensor_map, wide
from .bits import apply, leaves, real, require, require_close, require_same
from .case import Case
from .kinds import kind_of
from .law import law
from .strategies import Drawn


@law("optimizer", "transform", values="tame")
def law_vmap_is_loop(thing: Any, case: Case) -> None:
    """Two members stacked and updated under vmap are the two updated one after the other.

    To the bit in leaves narrower than 64 bits of a thing of scope "element"; else each entry within 8 ulp of the
    largest one that its leaf had or has, and within n + 8 ulp (of the coarsest dtype summed in) for a thing that sums n
    entries: vmap sums, and raises to powers, in another order. Half precision, 0-d, counts as wide: torch rounds
    `x * 0.1` otherwise where x is in a vector. One member sees the other's gradients last to first and negated.
    """
    _compare(thing, [thing, thing], case)


def has_numbers(thing: Any, _: Drawn) -> str:
    """Only things whose numbers are leaves."""
    return "" if any(isinstance(leaf, float | Tensor) for leaf in tree_leaves(thing)) else "has no numbers as leaves"


@law("optimizer", "transform", values="tame", where=[has_numbers])
def law_members_have_their_own_numbers(thing: Any, case: Case) -> None:
    """Under vmap every number of a record may be a leaf of shape [K]: each member is a thing with its own numbers.

    Here the second member has half of each. Tolerance as for `law_vmap_is_loop`.
    """
    whole = in_tensors(thing)
    _compare(thing, [whole, tree_map(_halved, whole)], case)


def in_tensors(thing: Any) -> Any:
    """The same record with its floats as float64 0-d tensors."""
    return tree_map(_in_tensor, thing)


def _in_tensor(leaf: Any) -> Any:
    return torch.tensor(leaf, dtype=torch.float64) if isinstance(leaf, float) else leaf


def _halved(leaf: Any) -> Any:
    return leaf / 2 if isinstance(leaf, Tensor) else leaf


def _compare(thing: Any, members: list[Any], case: Case) -> None:
    together, optimizes, ulps = _stacked(members), kind_of(thing) == "optimizer", _ulps(thing, case)
    params, first = case.fresh()
    second = [{name: -_turned(leaf) for name, leaf in grads.items()} for grads in reversed(first)]
    held = [params, {name: _turned(leaf) for name, leaf in params.items()}]
    states = [member.init_state(mine) for member, mine in zip(members, held, strict=True)]
    if not tree_leaves((held, states)):
        return  # vmap wants at least one tensor
    for both in zip(first, second, strict=True):
        stacks = [tree_map(lambda *leaf: torch.stack(leaf), *pair) for pair in (both, states, held)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # of in-place ops under vmap: no law
            results = together(*stacks)
        alone = [apply(*each) for each in zip(members, both, states, held, strict=True)]
        before = [(mine if optimizes else grads, state) for mine, grads, state in zip(held, both, states, strict=True)]
        for place, expected in enumerate(alone):
            got = tensor_map(partial(torch.select, dim=0, index=place), results)
            _check(got, expected, before[place], ulps, f"member {place}")
        held = [result if optimizes else mine for mine, (result, _) in zip(held, alone, strict=True)]
        states = [state for _, state in alone]


def _stacked(members: list[Any]) -> Callable[..., Any]:
    """A function of stacked grads, state and params, which are updated by the members under vmap."""
    numbers, structures = zip(*(tree_flatten(member) for member in members), strict=True)
    dims = [0 if isinstance(leaf, Tensor) else None for leaf in numbers[0]]
    leaves = [pair[0] if dim is None else torch.stack(pair) for dim, *pair in zip(dims, *numbers, strict=True)]

    def call(numbers: list[Any], *inputs: Any) -> Any:
        return apply(tree_unflatten(numbers, structures[0]), *inputs)

    return partial(torch.vmap(call, in_dims=(dims, 0, 0, 0)), leaves)


def _ulps(thing: Any, case: Case) -> float | None:
    """The relative error of a thing that sums; None if it says that it does not."""
    if getattr(thing, "scope", "leaf") == "element":
        return None
    inputs = [*case.params.values(), *case.grads[0].values()]
    coarsest = max((torch.finfo(wide(leaf.dtype)).eps for leaf in inputs), default=0.0)
    return (sum(leaf.numel() for leaf in case.params.values()) + 8) * coarsest


def _check(got: Any, expected: Any, before: Any, ulps: float | None, who: str) -> None:
    mine, theirs, olds = (leaves(tree, who) for tree in (got, expected, before))
    require(list(mine) == list(theirs), f"under vmap {who} has the leaves {list(mine)}, alone {list(theirs)}")
    for path, leaf in mine.items():
        other, floating = theirs[path], leaf.dtype.is_floating_point or leaf.dtype.is_complex
        exact = ulps is None and not is_half_scalar(leaf) and real(leaf).dtype != torch.float64
        if exact or not floating or not leaf.numel():
            require_same(leaf, other, path, "so it is alone, without vmap")
        else:
            largest = max(_largest(tensor) for tensor in (other, olds[path]))
            bound = largest * max(8 * torch.finfo(leaf.dtype).eps, ulps or 0.0)
            require_close(leaf, other, bound, path, f"so it is alone, without vmap, up to {bound:.1e}")


def _largest(leaf: Tensor) -> float:
    """The largest finite entry."""
    return float(torch.where(real(leaf).isfinite(), real(leaf), 0.0).abs().max())


def is_half_scalar(leaf: Tensor) -> bool:
    """Is this a 0-d leaf of half precision, which torch rounds otherwise than the same number in a vector?"""
    return not leaf.ndim and leaf.dtype.itemsize == 2


def _turned(leaf: Tensor) -> Tensor:
    """The same numbers in another order, with the same strides."""
    return torch.empty_like(leaf).copy_(leaf.flatten().flip(0).reshape(leaf.shape))
