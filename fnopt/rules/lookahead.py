"""`lookahead`: k steps forward, then part of the way back."""

from collections.abc import Iterable
from typing import Any, TypedDict

import attrs
import torch
from torch import Tensor

from ..record import at_most_one, count, hyper, record
from ..tensors import at, check_grads, check_params, each_leaf, first_step, scalar, wide
from ..transforms.chain import check_pure, widest
from ..types import Hyper, Optimizer, Scope, Tensors


class LookaheadState(TypedDict):
    """The optimizer's own state, and the slow weights."""

    optimizer: Any
    step: Tensor  # int64, 0-d: updates done so far
    slow: dict[str, Tensor]  # like params, float32 or wider; begins as a copy of them


@record
class Lookahead:
    """What `lookahead` makes: an Optimizer whose params return to the slow weights after every k updates."""

    optimizer: Optimizer[Any]
    k: int = attrs.field(default=5, validator=count)
    alpha: Hyper = hyper(default=0.5, check=at_most_one)

    @property
    def scope(self) -> Scope:
        """That of the optimizer inside: interpolation is elementwise."""
        return widest((self.optimizer,))

    def init_state(self, params: Tensors) -> LookaheadState:
        """The slow weights begin equal to params."""
        check_params("lookahead", params)
        return {
            "optimizer": self.optimizer.init_state(params),
            "step": first_step(params),
            "slow": {name: p.to(wide(p.dtype), copy=True) for name, p in params.items()},
        }

    def update(
        self, grads: Tensors, state: LookaheadState, params: Tensors
    ) -> tuple[dict[str, Tensor], LookaheadState]:
        """One update; each k-th one then moves both weights to the point between them."""
        check_grads("lookahead", grads, params)
        t = state["step"] + 1
        due = t % self.k == 0
        (alpha,) = at(state["step"], self.alpha)
        fast, inner = self.optimizer.update(grads, state["optimizer"], params)

        def meet(slow: Tensor, fast: Tensor) -> tuple[Tensor]:
            return (torch.where(due.to(slow.device), torch.lerp(slow, fast, scalar(alpha, slow)), slow),)

        def join(fast: Tensor, slow: Tensor) -> tuple[Tensor]:
            return (torch.where(due.to(fast.device), slow, fast),)

        (slow,) = each_leaf(meet, state["slow"], fast)
        (new,) = each_leaf(join, fast, slow)
        return new, {"optimizer": inner, "step": t, "slow": slow}

    def eval_params(self, state: LookaheadState, params: Tensors) -> dict[str, Tensor]:
        """The slow weights, in the dtype of params."""
        return {name: state["slow"][name].to(p.dtype) for name, p in params.items()}

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """The optimizer inside, which owns all parameters."""
        return [("", self.optimizer, list(names))]


def lookahead(optimizer: Optimizer[Any], k: int = 5, alpha: Hyper = 0.5) -> Lookahead:
    r"""After every k updates: `slow = slow + alpha (params - slow)`, and `params = slow`.

    Between, the optimizer runs as it would; its state is kept across the return. `eval_params` is the slow weights.

    Law: with alpha = 1 params are those of the optimizer alone.

    >>> from fnopt import SGD
    >>> optimizer, params = lookahead(SGD(1.0), k=2), {"w": torch.tensor([4.0])}
    >>> state = optimizer.init_state(params)
    >>> for _ in range(2):
    ...     params, state = optimizer.update({"w": torch.tensor([1.0])}, state, params)
    >>> params
    {'w': tensor([3.])}

    Raises HyperparameterError unless 0 <= alpha <= 1 and k is an int >= 1.
    Source: Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """
    check_pure("lookahead", optimizer, Optimizer)
    return Lookahead(optimizer, k, alpha)
