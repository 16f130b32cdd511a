"""Adam: weight decay, where there is any, is part of the gradient (L2)."""

from typing import ClassVar

from torch import Tensor

from ..record import below_one, hyper, non_negative, record
from ..tensors import at, check_grads, check_memory, check_params, each_leaf, is_zero, scaled_add, widen
from ..types import Hyper, Scope, Tensors
from .adamw import AdamW, AdamWState


@record
class Adam:
    r"""Adam, with L2 regularization.

        g_t = g + wd p        then AdamW without decay:
        m_t = b1 m + (1 - b1) g_t        v_t = b2 v + (1 - b2) g_t^2
        p_t = p - lr (m_t / (1 - b1^t)) / (sqrt(v_t / (1 - b2^t)) + eps)

    Under L2 the decay passes through the moments, so parameters with large gradients decay less; `AdamW` decays all
    alike. Every number is a float, a 0-d tensor or a Schedule. In float32 on the CPU the eager result equals
    torch.optim.Adam to the bit.

    Law: with weight_decay = 0 it is AdamW with weight_decay = 0.

    >>> optimizer, params = Adam(lr=0.1), {"w": torch.tensor([1.0])}
    >>> params, state = optimizer.update({"w": torch.tensor([-5.0])}, optimizer.init_state(params), params)
    >>> round(params["w"].item(), 4)
    1.1

    Raises HyperparameterError for a number out of range, StructureError for names, shapes or dtypes that do not fit.
    Source: Kingma & Ba 2015, Algorithm 1, arXiv:1412.6980; amsgrad: Reddi et al. 2018.
    """

    scope: ClassVar[Scope] = "element"
    decoupled_weight_decay: ClassVar[bool] = False

    lr: Hyper = hyper(default=1e-3, check=non_negative)
    betas: tuple[Hyper, Hyper] = hyper(default=(0.9, 0.999), check=below_one)
    eps: Hyper = hyper(default=1e-8, check=non_negative)
    weight_decay: Hyper = hyper(default=0.0, check=non_negative)
    amsgrad: bool = False
    maximize: bool = False

    def init_state(self, params: Tensors) -> AdamWState:
        """Step 0 and moments of zeros, each shaped as its parameter."""
        check_params("Adam", params)
        return self._without_decay().init_state(params)

    def update(self, grads: Tensors, state: AdamWState, params: Tensors) -> tuple[dict[str, Tensor], AdamWState]:
        """One step down the gradient (up, with `maximize`) of the loss plus wd/2 times the squared norm of params."""
        check_grads("Adam", grads, params)
        check_memory("Adam", "amsgrad", self.amsgrad, state["max_exp_avg_sq"], params)
        (decay,) = at(state["step"], self.weight_decay)

        def regularize(g: Tensor, p: Tensor) -> tuple[Tensor]:
            g = -g if self.maximize else g
            return (g if is_zero(decay) else scaled_add(g, decay, p),)

        (regularized,) = each_leaf(regularize, widen(grads), params)
        return self._without_decay().update(regularized, state, params)

    def _without_decay(self) -> AdamW:
        return AdamW(lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=0.0, amsgrad=self.amsgrad)
