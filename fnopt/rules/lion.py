"""Lion: the sign of an interpolated momentum."""

from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from ..record import below_one, hyper, non_negative, record
from ..tensors import at, check_grads, check_params, each_leaf, first_step, scalar, scaled_add, zeros_like
from ..types import Hyper, Scope, Tensors


class LionState(TypedDict):
    """What Lion remembers."""

    step: Tensor  # int64, 0-d: updates done so far
    exp_avg: dict[str, Tensor]  # m, like params


@record
class Lion:
    r"""Evolved sign momentum.

        u_t = sign(b1 m + (1 - b1) g)        p_t = p (1 - lr wd) - lr u_t        m_t = b2 m + (1 - b2) g

    Every entry moves by exactly lr (or not at all, where the interpolation is 0): use a learning rate three to ten
    times smaller than AdamW's, and a decay as much larger. `maximize` goes up the gradient. Every number is a float, a
    0-d tensor or a Schedule; half precision is computed in float32 and rounded once.

    Law: scaling every gradient by c > 0, from the first on, changes nothing (to rounding).

    >>> optimizer, params = Lion(lr=0.1), {"w": torch.tensor([1.0, 1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([5.0, -0.1])}, optimizer.init_state(params), params)
    >>> params
    {'w': tensor([0.9000, 1.1000])}

    Raises HyperparameterError for a number out of range, StructureError for names, shapes or dtypes that do not fit.
    Source: Chen et al. 2023, Algorithm 2, arXiv:2302.06675.
    """

    scope: ClassVar[Scope] = "element"
    decoupled_weight_decay: ClassVar[bool] = True

    lr: Hyper = hyper(default=1e-4, check=non_negative)
    betas: tuple[Hyper, Hyper] = hyper(default=(0.9, 0.99), check=below_one)
    weight_decay: Hyper = hyper(default=0.0, check=non_negative)
    maximize: bool = False

    def init_state(self, params: Tensors) -> LionState:
        """Step 0 and a momentum of zeros, shaped as each parameter."""
        check_params("Lion", params)
        return {"step": first_step(params), "exp_avg": zeros_like(params)}

    def update(self, grads: Tensors, state: LionState, params: Tensors) -> tuple[dict[str, Tensor], LionState]:
        """One step down the gradient (up, with `maximize`)."""
        check_grads("Lion", grads, params)
        lr, b1, b2, decay = at(state["step"], self.lr, *self.betas, self.weight_decay)

        def leaf(p: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
            g = -g if self.maximize else g
            direction = torch.sign(torch.lerp(m, g, scalar(1 - b1, m)))
            p = p * scalar(1 - lr * decay, p)
            return scaled_add(p, -lr, direction), torch.lerp(m, g, scalar(1 - b2, m))

        new, exp_avg = each_leaf(leaf, params, grads, state["exp_avg"])
        return new, {"step": state["step"] + 1, "exp_avg": exp_avg}
