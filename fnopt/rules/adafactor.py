"""Adafactor: second moments of a matrix kept as one row and one column."""

import math
from typing import Any, ClassVar, TypedDict, cast

import attrs
import torch
from torch import Tensor

from .._torch import vector_norm
from ..errors import HyperparameterError, StructureError
from ..record import at_least_one, hyper, non_negative, non_positive, record
from ..tensors import as_tensor, at, check_grads, check_params, each_leaf, first_step, precise, scalar, scaled_add
from ..types import Hyper, Scope, Tensors


def _eps(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    def fits(item: object) -> bool:
        return isinstance(item, float) and 0.0 <= item < math.inf

    items = cast(tuple[Any, ...], value) if isinstance(value, tuple) else ()
    if len(items) != 2 or not fits(items[1]) or not (items[0] is None or fits(items[0])):
        raise HyperparameterError(
            f"Adafactor: {attribute.name} must be (None or a float >= 0, a float >= 0), got {value!r}"
        )


class AdafactorState(TypedDict):
    """What Adafactor remembers."""

    step: Tensor  # int64, 0-d: updates done so far
    row_var: dict[str, Tensor]  # for parameters with at least 2 dimensions: [..., rows, 1]
    col_var: dict[str, Tensor]  # and [..., 1, columns]
    variance: dict[str, Tensor]  # for vectors and scalars, like params


@record
class Adafactor:
    r"""Adaptive rates with sublinear memory.

        r_t = (1 - w) r + w mean_columns(g^2)        c_t = (1 - w) c + w mean_rows(g^2)        w = t^beta2_decay
        u = g / sqrt(max(r_t c_t / mean(r_t), eps1^2))          (vectors keep the whole second moment)
        p_t = p (1 - lr wd) - max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)

    `eps` is (eps1, eps2); None for eps1 is the machine epsilon of the dtype that is computed in: float32's for half
    precision, where torch takes the leaf's own. The paper's 1e-30 squared is 0 in float32, and a unit that never had
    a gradient then becomes nan, as in torch. `maximize` goes up the gradient. The other numbers are floats, 0-d tensors
    or Schedules. In float32 on the CPU the eager result equals torch.optim.Adafactor to the bit.

    Law: scaling every gradient by c > 0, from the first on, changes nothing (to rounding, above eps1).

    >>> optimizer, params = Adafactor(lr=0.1), {"w": torch.ones(2, 2)}
    >>> params, state = optimizer.update({"w": torch.full((2, 2), 5.0)}, optimizer.init_state(params), params)
    >>> params["w"][0], state["row_var"]["w"].shape
    (tensor([0.9000, 0.9000]), torch.Size([2, 1]))

    Raises StructureError for complex parameters, HyperparameterError for a number out of range.
    Source: Shazeer & Stern 2018, Algorithm 4, arXiv:1804.04235, with torch's min(lr, 1 / sqrt(t)) and decay.
    """

    scope: ClassVar[Scope] = "leaf"
    decoupled_weight_decay: ClassVar[bool] = True

    lr: Hyper = hyper(default=1e-2, check=non_negative)
    beta2_decay: Hyper = hyper(default=-0.8, check=non_positive)
    eps: tuple[float | None, float] = attrs.field(default=(None, 1e-3), validator=_eps, metadata={"static": True})
    d: Hyper = hyper(default=1.0, check=at_least_one)
    weight_decay: Hyper = hyper(default=0.0, check=non_negative)
    maximize: bool = False

    def init_state(self, params: Tensors) -> AdafactorState:
        """Step 0 and second moments of zeros."""
        check_params("Adafactor", params)
        for name, p in params.items():
            if p.dtype.is_complex:
                raise StructureError(
                    f"Adafactor: {name!r} is {p.dtype}, expected a real parameter; use torch.view_as_real"
                )
        matrices = {name: p for name, p in params.items() if p.ndim > 1}
        return {
            "step": first_step(params),
            "row_var": {name: p.new_zeros((*p.shape[:-1], 1)) for name, p in matrices.items()},
            "col_var": {name: p.new_zeros((*p.shape[:-2], 1, p.shape[-1])) for name, p in matrices.items()},
            "variance": {name: torch.zeros_like(p) for name, p in params.items() if p.ndim <= 1},
        }

    def update(
        self, grads: Tensors, state: AdafactorState, params: Tensors
    ) -> tuple[dict[str, Tensor], AdafactorState]:
        """One step down the gradient (up, with `maximize`)."""
        check_grads("Adafactor", grads, params)
        t = state["step"] + 1
        lr, beta2_decay, d, decay = at(state["step"], self.lr, self.beta2_decay, self.d, self.weight_decay)
        clock = t.to(precise(t.device))
        w = torch.pow(clock, as_tensor(beta2_decay, clock))
        rho = torch.minimum(as_tensor(lr, clock), 1 / clock**0.5)
        eps2 = as_tensor(self.eps[1], clock)

        def leaf(
            p: Tensor, g: Tensor, rows: Tensor | None, columns: Tensor | None, v: Tensor | None
        ) -> tuple[Tensor | None, ...]:
            g = -g if self.maximize else g
            eps1 = torch.finfo(p.dtype).eps if self.eps[0] is None else self.eps[0]
            root = max(1, p.numel()) ** 0.5
            size = torch.maximum(eps2, vector_norm(p).to(clock) / root) * rho
            p = p * scalar(1 - lr * decay, p)
            if rows is not None and columns is not None:
                rows = torch.lerp(rows, vector_norm(g, dim=-1) ** 2 / max(1, g.shape[-1]), scalar(w, g))
                columns = torch.lerp(columns, vector_norm(g, dim=-2) ** 2 / max(1, g.shape[-2]), scalar(w, g))
                estimate = rows @ columns / rows.mean(dim=-2, keepdim=True).clamp(min=eps1)
            elif v is not None:
                estimate = v = torch.lerp(v, g * g, scalar(w, g))
            else:
                raise AssertionError("a leaf has either rows and columns, or a variance")
            u = torch.rsqrt(estimate.clamp(min=eps1 * eps1)) * g
            excess = vector_norm(u).to(clock) / (root * d)
            return scaled_add(p, -size / torch.clamp(excess, min=1.0), u), rows, columns, v

        new, rows, columns, v = each_leaf(leaf, params, grads, state["row_var"], state["col_var"], state["variance"])
        return new, {"step": t, "row_var": rows, "col_var": columns, "variance": v}
