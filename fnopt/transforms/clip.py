"""Clipping: a bound on gradients, over all of them together or entry by entry."""

from functools import partial
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor

from ..errors import HyperparameterError
from ..record import hyper, record
from ..tensors import as_tensor, at, check_grads, check_params, each_leaf, first_step, global_norm, tmap, wide
from ..types import Hyper, Scope, Tensors


def _bound(instance: Any, attribute: Any, value: float) -> None:
    """A bound is > 0 and finite: to clip nothing is to leave clipping out."""
    if not 0.0 < value < float("inf"):
        owner, name = type(instance).__name__, attribute.name
        raise HyperparameterError(
            f"{owner}: {name} must be finite and > 0, got {value!r}; leave {owner} out of chain(…) to disable clipping"
        )


class ClipNormState(TypedDict):
    """The clock of a scheduled bound, and what the last call did (a step reports it among its Metrics)."""

    step: Tensor  # int64, 0-d
    metrics: dict[str, Tensor]  # clip_coef: float32, 0-d


@record
class ClipNorm:
    r"""Scale all gradients together so that their global norm is at most `max_norm`.

        c = max_norm / max(||g||, max_norm)        g_t = c g

    Below the bound c is exactly 1 and no bit changes (torch's clip_grad_norm_ adds 1e-6 to the norm and scales in its
    last millionth too). The norm is computed in float32 or wider. A norm that overflows to infinity gives zeros; that
    an entry is not finite is for the step to find.

    Law: the result has norm <= max_norm (to rounding) and the direction of g; clipping twice is clipping once.

    >>> clip, params = ClipNorm(1.0), {"w": torch.zeros(2)}
    >>> grads, state = clip.transform({"w": torch.tensor([3.0, 4.0])}, clip.init_state(params), params)
    >>> grads, state["metrics"]
    ({'w': tensor([0.6000, 0.8000])}, {'clip_coef': tensor(0.2000)})

    Raises HyperparameterError unless max_norm > 0. Source: Pascanu et al. 2013, arXiv:1211.5063.
    """

    scope: ClassVar[Scope] = "global"

    max_norm: Hyper = hyper(check=_bound)

    def init_state(self, params: Tensors) -> ClipNormState:
        """Step 0 and a coefficient of 1."""
        check_params("ClipNorm", params)
        step = first_step(params)
        return {"step": step, "metrics": {"clip_coef": torch.ones((), dtype=torch.float32, device=step.device)}}

    def transform(
        self, grads: Tensors, state: ClipNormState, params: Tensors
    ) -> tuple[dict[str, Tensor], ClipNormState]:
        """The gradients within the bound."""
        check_grads("ClipNorm", grads, params)
        (max_norm,) = at(state["step"], self.max_norm)
        coef = coefficient(global_norm(grads), max_norm)
        metrics = {"clip_coef": coef.to(state["step"].device, torch.float32)}
        return tmap(partial(scaled, coef=coef), grads), {"step": state["step"] + 1, "metrics": metrics}


def coefficient(norm: Tensor, max_norm: float | Tensor) -> Tensor:
    """The factor that brings a norm within its bound: exactly 1 below it."""
    bound = as_tensor(max_norm, norm)
    return bound / torch.maximum(norm, bound)


def scaled(g: Tensor, coef: Tensor) -> Tensor:
    """coef * g, computed wide and rounded once.

    Complex numbers part by part: torch's 1.0 * z is (1 + 0i) z, which turns -0.0 into 0.0 and inf into nan.
    """
    exact, coef = g.to(wide(g.dtype)), coef.to(g.device)
    if not g.dtype.is_complex:
        return (exact * coef).to(g.dtype)
    parts = torch.view_as_real(exact)
    return torch.view_as_complex((parts * coef[..., None].to(parts)).contiguous()).to(g.dtype)


class ClipValueState(TypedDict):
    """The clock of a scheduled bound."""

    step: Tensor  # int64, 0-d


@record
class ClipValue:
    r"""Clamp every entry of every gradient (of complex ones, both parts) to [-max_value, max_value].

    Law: no entry grows, no sign changes; clipping twice is clipping once.

    >>> clip, params = ClipValue(1.0), {"w": torch.zeros(2)}
    >>> grads, _ = clip.transform({"w": torch.tensor([3.0, -0.5])}, clip.init_state(params), params)
    >>> grads
    {'w': tensor([ 1.0000, -0.5000])}

    Raises HyperparameterError unless max_value > 0.
    """

    scope: ClassVar[Scope] = "element"

    max_value: Hyper = hyper(check=_bound)

    def init_state(self, params: Tensors) -> ClipValueState:
        """Step 0."""
        check_params("ClipValue", params)
        return {"step": first_step(params)}

    def transform(
        self, grads: Tensors, state: ClipValueState, params: Tensors
    ) -> tuple[dict[str, Tensor], ClipValueState]:
        """The clamped gradients."""
        check_grads("ClipValue", grads, params)
        (bound,) = at(state["step"], self.max_value)

        def clamp(g: Tensor, _: Tensor) -> tuple[Tensor]:
            limit = as_tensor(bound, g)
            return (torch.minimum(torch.maximum(g, -limit), limit),)

        (clamped,) = each_leaf(clamp, grads, params)
        return clamped, {"step": state["step"] + 1}
