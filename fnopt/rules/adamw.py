"""AdamW: Adam with decoupled weight decay."""

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
    power,
    scalar,
    sqrt,
    zeros_like,
)
from ..types import Hyper, Scope, Tensors


class AdamWState(TypedDict):
    """What AdamW and Adam remember."""

    step: Tensor  # int64, 0-d: updates done so far
    exp_avg: dict[str, Tensor]  # m, like params
    exp_avg_sq: dict[str, Tensor]  # v, like params
    max_exp_avg_sq: dict[str, Tensor]  # the largest v so far; empty unless amsgrad


@record
class AdamW:
    r"""Adam with decoupled weight decay.

        m_t = b1 m + (1 - b1) g        v_t = b2 v + (1 - b2) g^2
        p_t = p (1 - lr wd) - lr (m_t / (1 - b1^t)) / (sqrt(v_t / (1 - b2^t)) + eps)

    With `amsgrad` the largest v so far takes the place of v_t; `maximize` goes up the gradient. Every number is a
    float, a 0-d tensor or a Schedule. In float32 on the CPU the eager result equals torch.optim.AdamW to the bit;
    half precision is computed in float32 and rounded once.

    Law: without decay and with eps = 0, scaling every gradient by c > 0 changes nothing (to rounding).

    >>> optimizer, params = AdamW(lr=0.1, weight_decay=0.0), {"w": torch.tensor([1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([5.0])}, optimizer.init_state(params), params)
    >>> round(params["w"].item(), 4)          # the first step is lr times the sign of g
    0.9

    Raises HyperparameterError for a number out of range, StructureError for names, shapes or dtypes that do not fit.
    Source: Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101; amsgrad: Reddi et al. 2018.
    """

    scope: ClassVar[Scope] = "element"
    decoupled_weight_decay: ClassVar[bool] = True

    lr: Hyper = hyper(default=1e-3, check=non_negative)
    betas: tuple[Hyper, Hyper] = hyper(default=(0.9, 0.999), check=below_one)
    eps: Hyper = hyper(default=1e-8, check=non_negative)
    weight_decay: Hyper = hyper(default=1e-2, check=non_negative)
    amsgrad: bool = False
    maximize: bool = False

    def init_state(self, params: Tensors) -> AdamWState:
        """Step 0 and moments of zeros, each shaped as its parameter."""
        check_params("AdamW", params)
        return {
            "step": first_step(params),
            "exp_avg": zeros_like(params),
            "exp_avg_sq": zeros_like(params),
            "max_exp_avg_sq": zeros_like(params) if self.amsgrad else {},
        }

    def update(self, grads: Tensors, state: AdamWState, params: Tensors) -> tuple[dict[str, Tensor], AdamWState]:
        """One step down the gradient (up, with `maximize`)."""
        check_grads("AdamW", grads, params)
        check_memory("AdamW", "amsgrad", self.amsgrad, state["max_exp_avg_sq"], params)
        t = state["step"] + 1
        lr, b1, b2, eps, decay = at(state["step"], self.lr, *self.betas, self.eps, self.weight_decay)
        step_size = lr / (1 - power(b1, t))
        correction = (1 - power(b2, t)) ** 0.5

        def leaf(p: Tensor, g: Tensor, m: Tensor, v: Tensor, v_max: Tensor | None) -> tuple[Tensor | None, ...]:
            g = -g if self.maximize else g
            p = p * scalar(1 - lr * decay, p)
            m = torch.lerp(m, g, scalar(1 - b1, m))
            v = torch.addcmul(v * scalar(b2, v), g * scalar(1 - b2, g), g)
            v_max = None if v_max is None else torch.maximum(v_max, v)
            denominator = sqrt(v if v_max is None else v_max) / scalar(correction, v) + scalar(eps, v)
            return torch.addcdiv(p, m * scalar(-step_size, m), denominator), m, v, v_max

        new, m, v, v_max = each_leaf(
            leaf, params, grads, state["exp_avg"], state["exp_avg_sq"], state["max_exp_avg_sq"]
        )
        return new, {"step": t, "exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": v_max}
