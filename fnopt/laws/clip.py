"""Laws of clipping: a bound that is kept, by a change as small as can be."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..tensors import at, wide
from ..types import Tensors
from .bits import real, require, require_close, require_same
from .case import Case
from .domain import has_own
from .law import law
from .strategies import Drawn


@law("transform", values="finite", where=[has_own("max_norm")])
def law_norm_is_bounded(thing: Any, case: Case) -> None:
    """The norm of the result is at most `max_norm` (1 + u): over all leaves for scope "global", else of each leaf.

    u is an ulp of the coarsest leaf and n + 8 of the dtype that sums n squares.
    """
    for clipped, bound, slack, grads in _clipped(thing, case, "max_norm"):
        for names in _together(thing, grads):
            norm = _norm(clipped, names)
            require(norm <= bound * (1 + slack), f"clipped, {names} have norm {norm:.9g}; the bound is {bound:.9g}")


@law("transform", values="tame", where=[has_own("max_norm")])
def law_clipping_keeps_the_direction(thing: Any, case: Case) -> None:
    """The result is the gradient times one number in [0, 1]: the bound over the norm, or 1 below the bound.

    One number for all leaves for scope "global", else for each. Each entry within that u of `law_norm_is_bounded`.
    """
    for clipped, bound, slack, grads in _clipped(thing, case, "max_norm"):
        for names in _together(thing, grads):
            factor = min(1.0, bound / max(_norm(grads, names), 1e-300))
            for name in names:
                leaf, got = real(grads[name]), real(clipped[name])
                expected = (leaf.double() * factor).to(leaf.dtype)
                within = expected.double().abs() * slack
                require_close(got, expected, within, f"the clipped {name!r}", f"{factor:.6g} times the gradient")


@law("transform", values="tame", where=[has_own("max_norm")])
def law_below_the_bound_nothing_changes(thing: Any, case: Case) -> None:
    """Gradients whose norm is below the bound come out with the same bits."""
    params, gradients = case.fresh()
    for grads in gradients:
        bound = _bound(thing, "max_norm")
        factor = bound / (2 * max(_norm(grads, grads), bound))
        small = {name: leaf * factor for name, leaf in grads.items()}
        result, _ = thing.transform(small, thing.init_state(params), params)
        require_same(result, small, "grads", f"their norm is {_norm(small, small):.6g}, below the bound {bound:.6g}")


@law("transform", where=[has_own("max_value")])
def law_entries_are_bounded(thing: Any, case: Case) -> None:
    """No entry exceeds `max_value` (rounded to its dtype), none grows, none changes its sign; nan stays nan."""
    for clipped, bound, _, grads in _clipped(thing, case, "max_value"):
        for name, leaf in grads.items():
            old, new = real(leaf), real(clipped[name])
            most = torch.tensor(bound, dtype=wide(old.dtype)).to(old.dtype)
            fits = (new.abs() <= torch.minimum(old.abs(), most)) & (new.signbit() == old.signbit())
            fits |= new.isnan() & old.isnan()
            require(fits.all(), "{}: {} became {}; the bound is {}", name, old, new, most)


@law("transform", where=[has_own("max_value")])
def law_entries_within_the_bound_stay(thing: Any, case: Case) -> None:
    """An entry that is not above `max_value` keeps its value."""
    for clipped, bound, _, grads in _clipped(thing, case, "max_value"):
        for name, leaf in grads.items():
            old, new = real(leaf), real(clipped[name])
            small = old.double().abs() <= bound
            require(torch.equal(old[small], new[small]), "{} {} became {}; the bound is {}", name, old, new, bound)


def is_clip(thing: Any, drawn: Drawn) -> str:
    """Only things with a bound."""
    return has_own("max_norm")(thing, drawn) and has_own("max_value")(thing, drawn) and "has no bound"


@law("transform", values="tame", where=[is_clip])
def law_clipping_twice_is_clipping_once(thing: Any, case: Case) -> None:
    """What is clipped stays as it is, each entry within that u of `law_norm_is_bounded`."""
    params, gradients = case.fresh()
    for grads in gradients:
        once, _ = thing.transform(grads, thing.init_state(params), params)
        twice, _ = thing.transform(once, thing.init_state(params), params)
        for name, leaf in once.items():
            bounds = real(leaf).double().abs() * _slack(grads)
            require_close(real(twice[name]), real(leaf), bounds, f"{name!r}, clipped twice", "clipped once")


def _clipped(thing: Any, case: Case, field: str) -> list[tuple[dict[str, Tensor], float, float, dict[str, Tensor]]]:
    """For each gradient alone: the clipped one, the bound, the relative slack of rounding, the gradient."""
    params, gradients = case.fresh()
    bound, fresh = _bound(thing, field), thing.init_state(params)
    return [(thing.transform(grads, fresh, params)[0], bound, _slack(grads), grads) for grads in gradients]


def _bound(thing: Any, field: str) -> float:
    return float(at(torch.tensor(0), getattr(thing, field))[0])


def _together(thing: Any, grads: Tensors) -> list[list[str]]:
    """The names of the leaves that share one norm."""
    return [list(grads)] if getattr(thing, "scope", "leaf") == "global" else [[name] for name in grads]


def _norm(tensors: Tensors, names: Iterable[str]) -> float:
    return math.sqrt(sum(float(real(tensors[name]).double().square().sum()) for name in names))


def _slack(grads: Tensors) -> float:
    kinds = [leaf.dtype for leaf in grads.values()] or [torch.float32]
    summed = max(torch.finfo(wide(kind)).eps for kind in kinds)
    return (sum(leaf.numel() for leaf in grads.values()) + 8) * summed + max(torch.finfo(kind).eps for kind in kinds)
