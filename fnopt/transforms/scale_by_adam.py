"""ScaleByAdam: Adam's direction as a gradient transform."""

from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from ..record import below_one, hyper, non_negative, record
from ..tensors import at, check_grads, check_params, each_leaf, first_step, power, scalar, sqrt, zeros_like
from ..types import Hyper, Scope, Tensors


class ScaleByAdamState(TypedDict):
    """What ScaleByAdam remembers."""

    step: Tensor  # int64, 0-d: calls so far
    exp_avg: dict[str, Tensor]  # m, like params
    exp_avg_sq: dict[str, Tensor]  # v, like params


@record
class ScaleByAdam:
    r"""Put Adam's direction in the place of the gradient, to act on it before it is applied.

        m_t = b1 m + (1 - b1) g        v_t = b2 v + (1 - b2) g^2
        g_t = (m_t / (1 - b1^t)) / (sqrt(v_t / (1 - b2^t)) + eps)

    `chain(ScaleByAdam(), ClipNorm(1.0), SGD(lr))` clips the direction; without the clip it is `Adam(lr)` to rounding.

    Law: with eps = 0, scaling every gradient by c > 0 changes nothing (to rounding).

    >>> transform, params = ScaleByAdam(), {"w": torch.zeros(2)}
    >>> transform.transform({"w": torch.tensor([3.0, -0.1])}, transform.init_state(params), params)[0]
    {'w': tensor([ 1.0000, -1.0000])}

    Raises HyperparameterError for a number out of range. Source: Kingma & Ba 2015, Algorithm 1, arXiv:1412.6980.
    """

    scope: ClassVar[Scope] = "element"

    betas: tuple[Hyper, Hyper] = hyper(default=(0.9, 0.999), check=below_one)
    eps: Hyper = hyper(default=1e-8, check=non_negative)

    def init_state(self, params: Tensors) -> ScaleByAdamState:
        """Step 0 and moments of zeros, each shaped as its parameter."""
        check_params("ScaleByAdam", params)
        return {"step": first_step(params), "exp_avg": zeros_like(params), "exp_avg_sq": zeros_like(params)}

    def transform(
        self, grads: Tensors, state: ScaleByAdamState, params: Tensors
    ) -> tuple[dict[str, Tensor], ScaleByAdamState]:
        """Adam's direction."""
        check_grads("ScaleByAdam", grads, params)
        t = state["step"] + 1
        b1, b2, eps = at(state["step"], *self.betas, self.eps)
        weight, correction = 1 / (1 - power(b1, t)), (1 - power(b2, t)) ** 0.5

        def direction(g: Tensor, _: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            m = torch.lerp(m, g, scalar(1 - b1, m))
            v = torch.addcmul(v * scalar(b2, v), g * scalar(1 - b2, g), g)
            return m * scalar(weight, m) / (sqrt(v) / scalar(correction, v) + scalar(eps, v)), m, v

        scaled, m, v = each_leaf(direction, grads, grads, state["exp_avg"], state["exp_avg_sq"])
        return scaled, {"step": t, "exp_avg": m, "exp_avg_sq": v}
