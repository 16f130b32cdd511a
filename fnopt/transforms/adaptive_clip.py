"""Clipping with a bound for each parameter: a fixed one, or one that follows the size of the weights (AGC)."""

from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from .._torch import vector_norm
from ..record import hyper, positive, record
from ..tensors import as_tensor, at, check_grads, check_params, first_step, tmap, wide
from ..types import Hyper, Scope, Tensors
from .clip import coefficient, scaled


class ClockState(TypedDict):
    """The clock of scheduled numbers."""

    step: Tensor  # int64, 0-d


@record
class ClipParamNorm:
    r"""Scale the gradient of each parameter by itself so that its norm is at most `max_norm`.

        g_t = g max_norm / max(||g||, max_norm)        for every parameter

    Unlike `ClipNorm` it changes the direction of the whole: large gradients lose their lead.

    Law: each gradient keeps its direction and has norm <= max_norm (to rounding); below it no bit changes.

    >>> clip, params = ClipParamNorm(1.0), {"a": torch.zeros(2), "b": torch.zeros(1)}
    >>> grads = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.5])}
    >>> clip.transform(grads, clip.init_state(params), params)[0]
    {'a': tensor([0.6000, 0.8000]), 'b': tensor([0.5000])}

    Raises HyperparameterError unless max_norm > 0.
    """

    scope: ClassVar[Scope] = "leaf"

    max_norm: Hyper = hyper(check=positive)

    def init_state(self, params: Tensors) -> ClockState:
        """Step 0."""
        check_params("ClipParamNorm", params)
        return {"step": first_step(params)}

    def transform(self, grads: Tensors, state: ClockState, params: Tensors) -> tuple[dict[str, Tensor], ClockState]:
        """The gradients, each within the bound."""
        check_grads("ClipParamNorm", grads, params)
        (max_norm,) = at(state["step"], self.max_norm)

        def clip(g: Tensor) -> Tensor:
            return scaled(g, coefficient(vector_norm(g, wide(g.dtype)), max_norm))

        return tmap(clip, grads), {"step": state["step"] + 1}


@record
class AdaptiveClip:
    r"""Adaptive gradient clipping: bound the gradient of each unit by the norm of its weights.

        g_i = g_i b_i / max(||g_i||, b_i)        b_i = clipping max(||w_i||, eps)        for every unit i

    A unit is one output of a layer, a slice along the first dimension; vectors and scalars are one unit, and so have
    the clipping of biases and gains in the paper. Leave the last layer out of it (`partition`), as the paper does.

    Law: each unit keeps its direction; its gradient is at most `clipping` times its weights (or eps).

    >>> clip, params = AdaptiveClip(0.5), {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}
    >>> clip.transform({"w": torch.tensor([[3.0, 0.0], [3.0, 0.0]])}, clip.init_state(params), params)[0]
    {'w': tensor([[2.5000, 0.0000],
            [0.2500, 0.0000]])}

    Raises HyperparameterError unless clipping > 0 and eps > 0. Source: Brock et al. 2021, arXiv:2102.06171.
    """

    scope: ClassVar[Scope] = "leaf"

    clipping: Hyper = hyper(default=0.01, check=positive)
    eps: Hyper = hyper(default=1e-3, check=positive)

    def init_state(self, params: Tensors) -> ClockState:
        """Step 0."""
        check_params("AdaptiveClip", params)
        return {"step": first_step(params)}

    def transform(self, grads: Tensors, state: ClockState, params: Tensors) -> tuple[dict[str, Tensor], ClockState]:
        """The gradients, each unit within its bound."""
        check_grads("AdaptiveClip", grads, params)
        clipping, eps = at(state["step"], self.clipping, self.eps)

        def clip(g: Tensor, p: Tensor) -> Tensor:
            norm, weights = unit_norm(g.to(wide(g.dtype))), unit_norm(p.to(wide(p.dtype)))
            bound = as_tensor(clipping, norm) * torch.maximum(weights.to(norm), as_tensor(eps, norm))
            return scaled(g, bound / torch.maximum(norm, bound))

        return tmap(clip, grads, params), {"step": state["step"] + 1}


def unit_norm(x: Tensor) -> Tensor:
    """The norm of each slice along the first dimension, dimensions kept; of a vector or scalar, the norm of all."""
    return vector_norm(x, dim=tuple(range(1, x.ndim))) if x.ndim > 1 else vector_norm(x)
