"""What kinds of things there are laws for, and how each is written down."""

import inspect
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import torch

from ..errors import UsageError
from . import torch_optim

Kind: TypeAlias = Literal["optimizer", "torch optimizer", "transform", "schedule", "GradFn", "step"]
METHODS: dict[str, Kind] = {"update": "optimizer", "transform": "transform", "step": "step"}
ARGUMENTS: dict[int, Kind] = {1: "schedule", 2: "GradFn"}


def kind_of(thing: Any) -> Kind:
    """What kind of thing this is, by its methods: by how many arguments it takes, if it is a function.

    Raises UsageError for anything else, and for a class in place of an instance.
    """
    if torch_optim.is_one(thing):
        return "torch optimizer"
    if isinstance(thing, type):
        raise UsageError(f"laws: got the class {thing.__name__}, expected an instance; write {thing.__name__}(…)")
    if isinstance(thing, torch.optim.Optimizer):
        name = type(thing).__name__
        raise UsageError(f"laws: got a live {name}, expected its class: functools.partial({name}, lr=…)")
    if hasattr(thing, "init_state"):
        for method, kind in METHODS.items():
            if callable(getattr(thing, method, None)):
                return kind
    elif callable(thing) and not isinstance(thing, torch.nn.Module) and (kind := ARGUMENTS.get(_arguments(thing))):
        return kind
    raise UsageError(
        f"laws: got {thing!r}, expected an Optimizer (init_state, update), a GradTransform (init_state, transform), a "
        "Schedule (called with a step), a GradFn (called with a state and a batch), a StepFn (init_state, step), or a "
        "class of torch.optim"
    )


def shown(thing: Any) -> str:
    """The expression that makes a thing, as far as its repr does."""
    if isinstance(thing, partial):
        function: Any = cast(Any, thing).func
        keywords = "".join(f", {name}={value!r}" for name, value in cast(Any, thing).keywords.items())
        return f"functools.partial({shown(function)}{keywords})"
    return f"{thing.__module__}.{thing.__qualname__}" if isinstance(thing, type) else repr(thing)


def _arguments(thing: Any) -> int:
    wanted = [one for one in inspect.signature(thing).parameters.values() if one.default is one.empty]
    return len([one for one in wanted if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)])
