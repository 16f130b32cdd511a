"""Laws of structure: what comes out is shaped as what came in."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..types import Tensors
from .bits import leaves, require, run, unchanged
from .case import Case
from .domain import has_own, has_step
from .kinds import kind_of
from .law import law


@law("optimizer", "transform", "torch optimizer")
def law_leaves_keep_their_form(thing: Any, case: Case) -> None:
    """The result is a dict with the names of the input in its order, each leaf with its shape, dtype and device.

    An optimizer's result is shaped as params, whatever the dtype of grads; a transform's is shaped as grads.
    """
    params, grads = case.fresh()
    for update, (result, _) in enumerate(run(thing, params, grads)):
        like = grads[update] if kind_of(thing) == "transform" else params
        require(type(result) is dict, f"update {update} returned a {type(result).__name__}, expected a dict")
        require(list(result) == list(like), f"update {update} returned the names {list(result)}, expected {list(like)}")
        for name, leaf in like.items():
            require(_form(result[name]) == _form(leaf), f"{name!r} is {_form(result[name])}, expected {_form(leaf)}")


@law("optimizer", "transform")
def law_state_keeps_its_form(thing: Any, case: Case) -> None:
    """The state is a plain nested dict of tensors, whose names, shapes, dtypes and devices never change.

    Nor do they depend on the values of params.
    """
    params, grads = case.fresh()
    begin = _layout(thing.init_state(params))
    zeros = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
    again = _layout(thing.init_state(zeros))
    require(again == begin, f"the state of zeros has {again}, expected {begin}, as for these params")
    for update, (_, state) in enumerate(run(thing, params, grads)):
        now = _layout(state)
        require(now == begin, f"after update {update} the state has {now}, expected {begin}, as from init_state")


@law("optimizer", "transform", where=[has_step])
def law_step_counts_updates(thing: Any, case: Case) -> None:
    """Every `step` in the state is int64 and 0-d, begins at 0 and grows by one per update."""
    params, grads = case.fresh()
    for updates, state in enumerate([thing.init_state(params), *(state for _, state in run(thing, params, grads))]):
        for path, step in _clocks(state).items():
            require(step.dtype == torch.int64 and not step.ndim, f"{path} is {_form(step)}, expected int64, 0-d")
            require(step == updates, f"{path} is {step} after {updates} updates")


@law("optimizer", where=[has_own("eval_params")])
def law_eval_params_are_shaped_as_params(thing: Any, case: Case) -> None:
    """`eval_params(state, params)` changes neither, and gives names, shapes, dtypes and devices of params."""
    params, grads = case.fresh()
    for new, state in run(thing, params, grads):
        with unchanged(thing=thing, state=state, params=new):
            averaged = thing.eval_params(state, new)
        require(list(averaged) == list(new), f"eval_params has the names {list(averaged)}, expected {list(new)}")
        for name, leaf in new.items():
            got, expected = _form(averaged[name]), _form(leaf)
            require(got == expected, f"eval_params has {name!r} as {got}, expected {expected}")


def _clocks(state: Any) -> dict[str, Tensor]:
    return {path: leaf for path, leaf in leaves(state, "state").items() if path.endswith("['step']")}


def _form(leaf: Any) -> str:
    if not isinstance(leaf, Tensor):
        return f"a {type(leaf).__name__}"
    grad = " that requires grad" if leaf.requires_grad else ""
    return f"{leaf.dtype} of shape {list(leaf.shape)} on {leaf.device}{grad}"


def _layout(state: Any, path: str = "state") -> dict[str, str]:
    """The form of every leaf by path, in order, empty dicts included."""
    if not isinstance(state, Mapping):
        require(isinstance(state, Tensor), f"{path} is a {type(state).__name__}, expected a tensor or a plain dict")
        return {path: _form(state)}
    kind = cast(object, state).__class__
    require(kind is dict, f"{path} is a {kind.__name__}, expected a plain dict")
    layout = {path: "a dict"}
    for key, value in cast(Tensors, state).items():
        require(isinstance(cast(object, key), str), f"{path} has the key {key!r}, expected a string")
        layout |= _layout(value, f"{path}[{key!r}]")
    return layout
