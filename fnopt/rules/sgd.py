"""Stochastic gradient descent, with momentum and Nesterov's variant."""

from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from ..errors import HyperparameterError
from ..record import finite, hyper, non_negative, record
from ..tensors import (
    as_tensor,
    at,
    check_grads,
    check_memory,
    check_params,
    each_leaf,
    first_step,
    is_zero,
    precise,
    scalar,
    scaled_add,
    zeros_like,
)
from ..types import Hyper, Scope, Tensors


class SGDState(TypedDict):
    """What SGD remembers."""

    step: Tensor  # int64, 0-d: updates done so far
    momentum_buffer: dict[str, Tensor]  # b, like params; empty while momentum is the float 0


@record
class SGD:
    r"""Stochastic gradient descent.

        g_t = g + wd p                              (L2; decoupled: p (1 - lr wd) instead)
        b_t = mu b + (1 - damp) g_t                 (b_1 = g_1)
        p_t = p - lr b_t                            (Nesterov: p - lr (g_t + mu b_t))

    `maximize` goes up the gradient. Every number is a float, a 0-d tensor or a Schedule. In float32 on the CPU the
    eager result equals torch.optim.SGD to the bit; half precision is computed in float32 and rounded once.

    Law: without momentum and decay, two steps with lr are one step with 2 lr along the same gradient.

    >>> optimizer, params = SGD(lr=0.1), {"w": torch.tensor([1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([5.0])}, optimizer.init_state(params), params)
    >>> params
    {'w': tensor([0.5000])}

    Raises HyperparameterError for a number out of range, StructureError for names, shapes or dtypes that do not fit.
    Source: Sutskever et al. 2013, with lr outside the buffer as in torch; decoupled decay: arXiv:1711.05101.
    """

    scope: ClassVar[Scope] = "element"

    lr: Hyper = hyper(default=1e-3, check=non_negative)
    momentum: Hyper = hyper(default=0.0, check=non_negative)
    dampening: Hyper = hyper(default=0.0, check=finite)
    weight_decay: Hyper = hyper(default=0.0, check=non_negative)
    nesterov: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False

    def __attrs_post_init__(self) -> None:
        if self.nesterov and (is_zero(self.momentum) or not is_zero(self.dampening)):
            raise HyperparameterError(
                f"SGD: nesterov=True needs momentum > 0 and dampening = 0, got momentum={self.momentum!r} and "
                f"dampening={self.dampening!r}"
            )

    def init_state(self, params: Tensors) -> SGDState:
        """Step 0 and, where there is momentum, a buffer of zeros shaped as each parameter."""
        check_params("SGD", params)
        return {"step": first_step(params), "momentum_buffer": {} if is_zero(self.momentum) else zeros_like(params)}

    def update(self, grads: Tensors, state: SGDState, params: Tensors) -> tuple[dict[str, Tensor], SGDState]:
        """One step down the gradient (up, with `maximize`)."""
        check_grads("SGD", grads, params)
        check_memory("SGD", "momentum", not is_zero(self.momentum), state["momentum_buffer"], params)
        t = state["step"]
        lr, mu, damp, decay = at(t, self.lr, self.momentum, self.dampening, self.weight_decay)
        if not is_zero(damp):  # the first gradient enters undamped
            damp = torch.where(t == 0, 0.0, as_tensor(damp, t.to(precise(t.device))))

        def leaf(p: Tensor, g: Tensor, b: Tensor | None) -> tuple[Tensor | None, ...]:
            g = -g if self.maximize else g
            if not is_zero(decay):
                if self.decoupled_weight_decay:
                    p = p * scalar(1 - lr * decay, p)
                else:
                    g = scaled_add(g, decay, p)
            if b is None:
                return scaled_add(p, -lr, g), None
            b = scaled_add(b * scalar(mu, b), 1 - damp, g)
            return scaled_add(p, -lr, scaled_add(g, mu, b) if self.nesterov else b), b

        new, buffer = each_leaf(leaf, params, grads, state["momentum_buffer"])
        return new, {"step": t + 1, "momentum_buffer": buffer}
