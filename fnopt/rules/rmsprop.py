"""RMSprop: the gradient over its root mean square."""

from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from ..record import below_one, hyper, non_negative, record
from ..tensors import (
    at,
    check_grads,
    check_memory,
    check_params,
    each_leaf,
    first_step,
    is_zero,
    scalar,
    scaled_add,
    sqrt,
    zeros_like,
)
from ..types import Hyper, Scope, Tensors


class RMSpropState(TypedDict):
    """What RMSprop remembers."""

    step: Tensor  # int64, 0-d: updates done so far
    square_avg: dict[str, Tensor]  # v, like params
    grad_avg: dict[str, Tensor]  # the mean gradient; empty unless centered
    momentum_buffer: dict[str, Tensor]  # b; empty while momentum is the float 0


@record
class RMSprop:
    r"""Divide the gradient by a running root mean square of itself.

        g_t = g + wd p                         v_t = a v + (1 - a) g_t^2
        d_t = sqrt(v_t) + eps                  (centered: sqrt(v_t - h_t^2) + eps, with h_t = a h + (1 - a) g_t)
        b_t = mu b + g_t / d_t                 p_t = p - lr b_t

    `maximize` goes up the gradient. Every number is a float, a 0-d tensor or a Schedule. In float32 on the CPU the
    eager result equals torch.optim.RMSprop to the bit, also where v_t - h_t^2, under a nearly constant gradient, rounds
    to less than 0 and its root to nan.

    Law: without momentum, decay and eps, the first step is lr / sqrt(1 - a) times the sign of the gradient.

    >>> optimizer, params = RMSprop(lr=0.1, alpha=0.75), {"w": torch.tensor([1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([5.0])}, optimizer.init_state(params), params)
    >>> round(params["w"].item(), 4)
    0.8

    Raises HyperparameterError for a number out of range, StructureError for names, shapes or dtypes that do not fit.
    Source: Hinton, lecture 6e of the 2012 course; centered: Graves 2013, arXiv:1308.0850, equations 38 to 45.
    """

    scope: ClassVar[Scope] = "element"
    decoupled_weight_decay: ClassVar[bool] = False

    lr: Hyper = hyper(default=1e-2, check=non_negative)
    alpha: Hyper = hyper(default=0.99, check=below_one)
    eps: Hyper = hyper(default=1e-8, check=non_negative)
    weight_decay: Hyper = hyper(default=0.0, check=non_negative)
    momentum: Hyper = hyper(default=0.0, check=non_negative)
    centered: bool = False
    maximize: bool = False

    def init_state(self, params: Tensors) -> RMSpropState:
        """Step 0 and averages of zeros, each shaped as its parameter."""
        check_params("RMSprop", params)
        return {
            "step": first_step(params),
            "square_avg": zeros_like(params),
            "grad_avg": zeros_like(params) if self.centered else {},
            "momentum_buffer": {} if is_zero(self.momentum) else zeros_like(params),
        }

    def update(self, grads: Tensors, state: RMSpropState, params: Tensors) -> tuple[dict[str, Tensor], RMSpropState]:
        """One step down the gradient (up, with `maximize`)."""
        check_grads("RMSprop", grads, params)
        check_memory("RMSprop", "centered", self.centered, state["grad_avg"], params)
        check_memory("RMSprop", "momentum", not is_zero(self.momentum), state["momentum_buffer"], params)
        lr, a, eps, decay, mu = at(state["step"], self.lr, self.alpha, self.eps, self.weight_decay, self.momentum)

        def leaf(p: Tensor, g: Tensor, v: Tensor, h: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
            g = -g if self.maximize else g
            g = g if is_zero(decay) else scaled_add(g, decay, p)
            v = torch.addcmul(v * scalar(a, v), g * scalar(1 - a, g), g)
            h = None if h is None else torch.lerp(h, g, scalar(1 - a, h))
            denominator = sqrt(v if h is None else torch.addcmul(v, -h, h)) + scalar(eps, v)
            if b is None:
                return torch.addcdiv(p, g * scalar(-lr, g), denominator), v, h, None
            b = torch.addcdiv(b * scalar(mu, b), g, denominator)
            return scaled_add(p, -lr, b), v, h, b

        new, v, h, b = each_leaf(leaf, params, grads, state["square_avg"], state["grad_avg"], state["momentum_buffer"])
        return new, {"step": state["step"] + 1, "square_avg": v, "grad_avg": h, "momentum_buffer": b}
