"""Adagrad: the gradient over the root of the sum of all its squares."""

from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from ..record import hyper, non_negative, record
from ..tensors import (
    as_tensor,
    at,
    check_grads,
    check_params,
    each_leaf,
    first_step,
    is_zero,
    precise,
    scalar,
    scaled_add,
    sqrt,
    zeros_like,
)
from ..types import Hyper, Scope, Tensors


class AdagradState(TypedDict):
    """What Adagrad remembers."""

    step: Tensor  # int64, 0-d: updates done so far
    sum: dict[str, Tensor]  # the sum of squared gradients, like params


@record
class Adagrad:
    r"""Adapt each entry's rate by the sum of its squared gradients.

        g_t = g + wd p        s_t = s + g_t^2        p_t = p - lr / (1 + (t - 1) lr_decay) g_t / (sqrt(s_t) + eps)

    `s_0` is `initial_accumulator_value`; `maximize` goes up the gradient. Every number is a float, a 0-d tensor or a
    Schedule (`initial_accumulator_value` is read once, by `init_state`). In float32 on the CPU the eager result equals
    torch.optim.Adagrad to the bit.

    Law: under one constant gradient, without eps, step t is lr / sqrt(t) times its sign.

    >>> optimizer, params = Adagrad(lr=0.1), {"w": torch.tensor([1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([5.0])}, optimizer.init_state(params), params)
    >>> round(params["w"].item(), 4), state["sum"]
    (0.9, {'w': tensor([25.])})

    Raises HyperparameterError for a number out of range, StructureError for names, shapes or dtypes that do not fit.
    Source: Duchi, Hazan & Singer 2011, JMLR 12, Figure 1 (diagonal).
    """

    scope: ClassVar[Scope] = "element"
    decoupled_weight_decay: ClassVar[bool] = False

    lr: Hyper = hyper(default=1e-2, check=non_negative)
    lr_decay: Hyper = hyper(default=0.0, check=non_negative)
    weight_decay: Hyper = hyper(default=0.0, check=non_negative)
    initial_accumulator_value: Hyper = hyper(default=0.0, check=non_negative)
    eps: Hyper = hyper(default=1e-10, check=non_negative)
    maximize: bool = False

    def init_state(self, params: Tensors) -> AdagradState:
        """Step 0 and the initial sums, each shaped as its parameter."""
        check_params("Adagrad", params)
        step = first_step(params)
        (start,) = at(step, self.initial_accumulator_value)

        def begin(_: Tensor, zeros: Tensor) -> tuple[Tensor]:
            return (zeros + scalar(start, zeros),)  # on both parts of a complex one

        (total,) = each_leaf(begin, zeros_like(params), zeros_like(params))
        return {"step": step, "sum": total}

    def update(self, grads: Tensors, state: AdagradState, params: Tensors) -> tuple[dict[str, Tensor], AdagradState]:
        """One step down the gradient (up, with `maximize`)."""
        check_grads("Adagrad", grads, params)
        t = state["step"]
        lr, lr_decay, decay, eps = at(t, self.lr, self.lr_decay, self.weight_decay, self.eps)
        clock = t.to(precise(t.device))
        rate = as_tensor(lr, clock) / (1 + clock * as_tensor(lr_decay, clock))

        def leaf(p: Tensor, g: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
            g = -g if self.maximize else g
            g = g if is_zero(decay) else scaled_add(g, decay, p)
            s = torch.addcmul(s, g, g)
            return torch.addcdiv(p, g * scalar(-rate, g), sqrt(s) + scalar(eps, s)), s

        new, total = each_leaf(leaf, params, grads, state["sum"])
        return new, {"step": t + 1, "sum": total}
