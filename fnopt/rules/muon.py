"""Muon: momentum, orthogonalized, for the matrices of a network."""

import math
from typing import Any, ClassVar, Literal, TypedDict, cast

import attrs
import torch
from torch import Tensor

from .._torch import vector_norm
from ..errors import HyperparameterError, StructureError
from ..record import below_one, hyper, non_negative, record
from ..tensors import as_tensor, at, check_grads, check_params, each_leaf, first_step, scalar, scaled_add, zeros_like
from ..types import Hyper, Scope, Tensors


def _three_floats(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, tuple) or [type(item) for item in cast(tuple[Any, ...], value)] != [float] * 3:
        raise HyperparameterError(f"Muon: {attribute.name} must be a tuple of 3 floats, got {value!r}")


class MuonState(TypedDict):
    """What Muon remembers."""

    step: Tensor  # int64, 0-d: updates done so far
    momentum_buffer: dict[str, Tensor]  # b, like params


@record
class Muon:
    r"""Momentum whose singular values are all moved near 1, for parameters with two dimensions.

        b_t = mu b + (1 - mu) g        o_t = NS(nesterov: (1 - mu) g + mu b_t, else b_t)
        p_t = p (1 - lr wd) - lr r o_t        r = sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns))

    NS is `ns_steps` Newton-Schulz iterations x <- a x + b (x x') x + c (x x')^2 x in bfloat16, which take singular
    values to about 0.7 to 1.2, not to 1. `adjust_lr_fn="match_rms_adamw"` chooses the second r, to share AdamW's lr and
    decay. Give vectors, embeddings and the head to another rule with `partition`. In float32 on the CPU the eager
    result equals torch.optim.Muon to the bit.

    Law: scaling every gradient by c > 0, from the first on, changes nothing (to bfloat16's rounding).

    >>> optimizer, params = Muon(lr=0.1, weight_decay=0.0), {"w": torch.eye(2)}
    >>> params, state = optimizer.update({"w": 7 * torch.eye(2)}, optimizer.init_state(params), params)
    >>> bool((params["w"].diagonal() < 0.94).all())          # both directions moved by nearly lr
    True

    Raises StructureError for a parameter that is no real matrix, HyperparameterError for a number out of range.
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; match_rms_adamw: Liu et al. 2025, arXiv:2502.16982.
    """

    scope: ClassVar[Scope] = "leaf"
    decoupled_weight_decay: ClassVar[bool] = True

    lr: Hyper = hyper(default=1e-3, check=non_negative)
    weight_decay: Hyper = hyper(default=0.1, check=non_negative)
    momentum: Hyper = hyper(default=0.95, check=below_one)
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = attrs.field(
        default=(3.4445, -4.775, 2.0315), validator=_three_floats, metadata={"static": True}
    )
    eps: Hyper = hyper(default=1e-7, check=non_negative)
    ns_steps: int = attrs.field(default=5, validator=[attrs.validators.ge(0), attrs.validators.lt(100)])
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = attrs.field(
        default=None, validator=attrs.validators.in_((None, "original", "match_rms_adamw"))
    )

    def init_state(self, params: Tensors) -> MuonState:
        """Step 0 and momentum of zeros, shaped as each parameter."""
        check_params("Muon", params)
        for name, p in params.items():
            if p.ndim != 2 or p.dtype.is_complex:
                raise StructureError(
                    f"Muon: {name!r} has shape {list(p.shape)} and {p.dtype}, expected a real matrix; give the others "
                    'to another rule: fnopt.partition({"muon": Muon(…), "rest": AdamW(…)}, fnopt.label(model, …))'
                )
        return {"step": first_step(params), "momentum_buffer": zeros_like(params)}

    def update(self, grads: Tensors, state: MuonState, params: Tensors) -> tuple[dict[str, Tensor], MuonState]:
        """One step down the gradient."""
        check_grads("Muon", grads, params)
        lr, decay, mu, eps = at(state["step"], self.lr, self.weight_decay, self.momentum, self.eps)

        def leaf(p: Tensor, g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            b = torch.lerp(b, g, scalar(1 - mu, b))
            direction = torch.lerp(g, b, scalar(mu, g)) if self.nesterov else b
            ortho = orthogonalize(direction, self.ns_coefficients, self.ns_steps, eps).to(p.dtype)
            return scaled_add(p * scalar(1 - lr * decay, p), -lr * self._ratio(p), ortho), b

        new, buffer = each_leaf(leaf, params, grads, state["momentum_buffer"])
        return new, {"step": state["step"] + 1, "momentum_buffer": buffer}

    def _ratio(self, p: Tensor) -> float:
        rows, columns = p.shape
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1, rows / columns)) if columns else 1.0


def orthogonalize(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float | Tensor) -> Tensor:
    """The matrix with the singular vectors of `x` and singular values near 1: bfloat16, shaped as `x`."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.bfloat16()
    x = x.T if tall else x
    norm = vector_norm(x)
    x = x / torch.maximum(norm, as_tensor(eps, norm))
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
