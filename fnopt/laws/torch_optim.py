"""How laws run the optimizers of torch.optim, and of all who subclass it: as classes, with or without arguments.

`torch.optim.SGD` is such a thing, and so is `functools.partial(torch.optim.SGD, lr=0.1)`.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..types import Tensors

Made: TypeAlias = "type[torch.optim.Optimizer] | partial[torch.optim.Optimizer]"


def is_one(thing: Any) -> bool:
    """Is this a class of stateful optimizers, or such a class with arguments?"""
    made = class_of(thing)
    return isinstance(made, type) and issubclass(made, torch.optim.Optimizer)


def class_of(thing: Any) -> Any:
    """The class that a `functools.partial` is of; anything else is itself."""
    return cast(Any, thing).func if isinstance(thing, partial) else thing


def arguments(thing: Made) -> dict[str, Any]:
    """The hyperparameters by name, as the optimizer itself has them in `defaults`."""
    return dict(cast(Any, build(thing, [nn.Parameter(torch.zeros(2, 2))])).defaults)


def with_arguments(thing: Made, values: Mapping[str, Any]) -> Made:
    """The same class with other arguments; those that it does not take are ignored."""
    made, given = class_of(thing), thing.keywords if isinstance(thing, partial) else {}
    parameters = inspect.signature(made).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    taken = {name: value for name, value in values.items() if name in parameters or (any_name and name in given)}
    return partial(made, **{**given, **taken})


def build(thing: Made, params: Any) -> torch.optim.Optimizer:
    """The live optimizer. Raises UsageError where the class wants arguments that it was not given."""
    try:
        return cast(Any, thing)(params)
    except TypeError as error:
        name = class_of(thing).__name__
        raise UsageError(
            f"laws: {name}(params) raises TypeError: {error}; pass functools.partial({name}, lr=0.1)"
        ) from error


def run(thing: Made, params: Tensors, grads: list[dict[str, Tensor]]) -> Iterator[tuple[dict[str, Tensor], Any]]:
    """The weights after each step, and a copy of what the optimizer remembers, by name."""
    live = Live(thing, params)
    for gradient in grads:
        yield live.step(gradient), live.memory()


class Live:
    """An optimizer at work on parameters of its own."""

    def __init__(self, thing: Made, params: Tensors):
        self.thing = thing
        self.params = {name: nn.Parameter(leaf.detach().clone()) for name, leaf in params.items()}
        self.optimizer = build(thing, list(self.params.values()))

    def step(self, grads: Tensors) -> dict[str, Tensor]:
        """One step along these gradients, in the dtype of the parameters; copies of the new weights."""
        for name, param in self.params.items():
            param.grad = grads[name].to(param.dtype, copy=True)
        self.optimizer.step()
        return {name: param.detach().clone() for name, param in self.params.items()}

    def memory(self) -> dict[str, Any]:
        """A copy of its state, by name of parameter."""
        state = cast(Any, self.optimizer.state)
        return {name: copy.deepcopy(dict(state[param])) for name, param in self.params.items() if param in state}

    def resumed(self) -> "Live":
        """Another one like it, from a copy of its `state_dict`, as a file would hold it, and of its weights."""
        saved = copy.deepcopy(self.optimizer.state_dict())
        other = Live(self.thing, {name: param.detach() for name, param in self.params.items()})
        other.optimizer.load_state_dict(saved)
        return other
