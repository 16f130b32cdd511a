"""Laws of scope: a thing that says it looks at each entry alone does."""

from typing import Any

import torch
from torch import Tensor

from ..compile.layout import layout_of
from ..tensors import wide
from .bits import apply, require_close, require_same, run
from .case import Case
from .domain import in_scope, is_noiseless, nameless
from .kinds import kind_of
from .law import law
from .members import is_half_scalar
from .strategies import Drawn, sample


@law("optimizer", "transform", where=[in_scope("element")])
def law_order_of_names_does_not_matter(thing: Any, case: Case) -> None:
    """Of scope "element": the names in another order give the same bits."""
    params, grads = case.fresh()
    turned = run(thing, _reversed(params), [_reversed(gradient) for gradient in grads])
    for update, ((result, _), (other, _)) in enumerate(zip(run(thing, params, grads), turned, strict=True)):
        require_same(_reversed(other), result, f"result {update}", "the names in the order of the case give this")


@law("optimizer", "transform", where=[in_scope("element", "leaf")])
def law_memory_goes_by_name(thing: Any, case: Case) -> None:
    """Each parameter finds its own memory, also when the names come in another order than they did before."""
    params, grads = case.fresh()
    result, state = next(run(thing, params, grads[:1]))
    params = result if kind_of(thing) == "optimizer" else params
    expected, _ = apply(thing, grads[-1], state, params)
    turned, _ = apply(thing, _reversed(grads[-1]), state, _reversed(params))
    require_same(_reversed(turned), expected, "the second result", "the names in the order of the case give this")


@law("optimizer", "transform", where=[nameless, is_noiseless])
def law_names_do_not_matter(thing: Any, case: Case) -> None:
    """Parameters of other names, in the same order, give the same bits under those names."""
    params, grads = case.fresh()
    renamed = run(thing, _renamed(params), [_renamed(gradient) for gradient in grads])
    for update, ((result, _), (other, _)) in enumerate(zip(run(thing, params, grads), renamed, strict=True)):
        require_same(other, _renamed(result), f"result {update}", "under the first names it is this")


@law("optimizer", "transform", where=[in_scope("element"), nameless])
def law_leaves_do_not_meet(thing: Any, case: Case) -> None:
    """Of scope "element": each leaf updated on its own gives the bits that it gives among the others."""
    params, grads = case.fresh()
    together = list(run(thing, params, grads))
    for name, leaf in params.items():
        alone = run(thing, {name: leaf}, [{name: gradient[name]} for gradient in grads])
        for update, ((result, _), (whole, _)) in enumerate(zip(alone, together, strict=True)):
            expected = {name: whole[name]}
            require_same(result, expected, f"result {update} alone", "among the other leaves it is this")


@law("optimizer", "transform", where=[in_scope("element"), nameless])
def law_entries_do_not_meet(thing: Any, case: Case) -> None:
    """Of scope "element": all entries of a dtype in one flat leaf, last to first, give the bits that they give apart.

    This is what packing relies on. A 0-d leaf of half precision is tried as [1]: torch rounds it otherwise.
    """
    params, grads = _no_half_scalars(case)
    packed = run(thing, _packed(params, params), [_packed(gradient, params) for gradient in grads])
    for update, ((result, _), (flat, _)) in enumerate(zip(run(thing, params, grads), packed, strict=True)):
        require_same(
            flat, _packed(result, params), f"result {update} packed", "entries in leaves of their own give this"
        )


def can_be_packed(thing: Any, drawn: Drawn) -> str:
    """Only things that `compiled` packs; a stranger's init_state may not take what it asks with."""
    params = sample(**drawn)
    try:
        layout_of(thing, params, thing.init_state(params))
    except Exception as error:  # whatever the thing raises
        return f"is not packed by compiled: {type(error).__name__}"
    return ""


@law("optimizer", where=[in_scope("element"), can_be_packed])
def law_packed_is_plain(thing: Any, case: Case) -> None:
    """Of scope "element": run on the flat buffers that `compiled` packs params and state into, it gives the same bits.

    A buffer for each label, dtype and device; names and shapes come back. 0-d leaves of half precision are tried as
    [1]: torch rounds them otherwise.
    """
    params, grads = _no_half_scalars(case)
    state = thing.init_state(params)
    layout = layout_of(thing, params, state)
    rule, now = layout.optimizer(thing), layout.params.pack(params)
    opt_state = state if layout.state is None else layout.state.pack(state)
    for update, (gradient, (expected, after)) in enumerate(zip(grads, run(thing, params, grads), strict=True)):
        now, opt_state = rule.update(layout.params.pack(gradient), opt_state, now)
        shown = opt_state if layout.state is None else layout.state.unpack(opt_state)
        require_same(
            layout.params.unpack(now), expected, f"packed params after update {update}", "so they are unpacked"
        )
        require_same(shown, after, f"the packed state after update {update}", "so it is unpacked")


def _no_half_scalars(case: Case) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    params, grads = case.fresh()
    for name in [name for name, leaf in params.items() if is_half_scalar(leaf)]:
        for tensors in (params, *grads):
            tensors[name] = tensors[name].reshape(1)
    return params, grads


def is_global_transform(thing: Any, drawn: Drawn) -> str:
    """An optimizer after a global sum may amplify a last bit as much as it likes (the sign of a tiny number)."""
    if kind_of(thing) == "optimizer":
        return "the sums of an optimizer are checked on its transforms"
    return in_scope("global")(thing, drawn)


@law("optimizer", "transform", values="tame", where=[is_global_transform, nameless])
def law_sums_are_over_all_entries(thing: Any, case: Case) -> None:
    """Of scope "global": all entries of a dtype in one flat leaf, last to first, give the same to rounding.

    Relative error: an ulp of the leaf's dtype, and n + 8 of the dtype that sums n numbers.
    """
    params, grads = case.fresh()
    for gradient in grads:
        whole, _ = apply(thing, gradient, thing.init_state(params), params)
        flat, one = _packed(gradient, params), _packed(params, params)
        packed, _ = apply(thing, flat, thing.init_state(one), one)
        count = sum(leaf.numel() for leaf in params.values())
        summed = max((torch.finfo(wide(leaf.dtype)).eps for leaf in gradient.values()), default=0.0)
        for name, expected in _packed(whole, params).items():
            largest = expected.abs().max() if expected.numel() else 0.0
            bound = ((count + 8) * summed + torch.finfo(expected.dtype).eps) * largest
            require_close(packed[name], expected, bound, f"{name!r} packed", "entries in leaves of their own give this")


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names that sort the other way round, and name other things."""
    return {f"{len(tensors) - place}.other.{name}": leaf for place, (name, leaf) in enumerate(tensors.items())}


def _reversed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(reversed(tensors.items()))


def _packed(tensors: dict[str, Tensor], params: dict[str, Tensor]) -> dict[str, Tensor]:
    """One flat leaf for each dtype of params, the last entry first."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for name, param in params.items():
        groups.setdefault(param.dtype, []).append(tensors[name].flatten())
    return {str(dtype): torch.cat(leaves).flip(0) for dtype, leaves in groups.items()}
