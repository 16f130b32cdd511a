"""`ema`: an exponential moving average of the weights, kept beside the training of them."""

from collections.abc import Iterable
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..record import at_most_one, hyper, record
from ..tensors import at, check_params, each_leaf, first_step, scalar, wide
from ..transforms.chain import check_pure, widest
from ..types import Hyper, Optimizer, Scope, Tensors


class EmaState(TypedDict):
    """The optimizer's own state, and the average."""

    optimizer: Any
    step: Tensor  # int64, 0-d: the clock of a scheduled decay
    ema: dict[str, Tensor]  # like params, float32 or wider; begins as a copy of them


@record
class Ema:
    """What `ema` makes: the same Optimizer, with an average of its params in the state."""

    optimizer: Optimizer[Any]
    decay: Hyper = hyper(default=0.999, check=at_most_one)

    @property
    def scope(self) -> Scope:
        """That of the optimizer inside: averaging is elementwise."""
        return widest((self.optimizer,))

    def init_state(self, params: Tensors) -> EmaState:
        """The average begins equal to params, so that it is usable, and unbiased, from the first update on."""
        check_params("ema", params)
        return {
            "optimizer": self.optimizer.init_state(params),
            "step": first_step(params),
            "ema": {name: p.to(wide(p.dtype), copy=True) for name, p in params.items()},
        }

    def update(self, grads: Tensors, state: EmaState, params: Tensors) -> tuple[dict[str, Tensor], EmaState]:
        """One update, and the average takes in its result."""
        (decay,) = at(state["step"], self.decay)
        new, inner = self.optimizer.update(grads, state["optimizer"], params)

        def average(e: Tensor, p: Tensor) -> tuple[Tensor]:
            return (torch.lerp(e, p, scalar(1 - decay, e)),)

        (averaged,) = each_leaf(average, state["ema"], new)
        return new, {"optimizer": inner, "step": state["step"] + 1, "ema": averaged}

    def eval_params(self, state: EmaState, params: Tensors) -> dict[str, Tensor]:
        """The average, in the dtype of params."""
        return {name: state["ema"][name].to(p.dtype) for name, p in params.items()}

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """The optimizer inside, which owns all parameters."""
        return [("", self.optimizer, list(names))]


def ema(optimizer: Optimizer[Any], decay: Hyper = 0.999) -> Ema:
    r"""Keep an exponential moving average of the weights: `e_t = decay e + (1 - decay) p_t`, `e_0 = p_0`.

    Training is not changed. `eval_params(state, params)` is the average; a step's `eval_params` finds it wherever the
    `ema` stands. Buffers (BatchNorm's statistics) are not averaged: evaluate the average with the current ones.
    `decay` may be a Schedule, for a shorter memory at the beginning.

    Law: each entry of the average stays between the smallest and the largest value that the parameter has had.

    >>> from fnopt import SGD
    >>> optimizer, params = ema(SGD(1.0), decay=0.9), {"w": torch.tensor([1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([1.0])}, optimizer.init_state(params), params)
    >>> params, optimizer.eval_params(state, params)
    ({'w': tensor([0.])}, {'w': tensor([0.9000])})

    Raises HyperparameterError unless 0 <= decay <= 1. Source: Polyak & Juditsky 1992; arXiv:1412.6980, section 7.2.
    """
    check_pure("ema", optimizer, Optimizer)
    return Ema(optimizer, decay)
