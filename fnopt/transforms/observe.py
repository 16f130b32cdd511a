"""`Tap`, which looks at gradients on their way, and `NanToZero`, which repairs and counts."""

from collections.abc import Callable
from typing import ClassVar, TypedDict

import attrs
import torch
from torch import Tensor

from ..record import record
from ..tensors import check_grads, check_params, device_of, global_norm, tmap
from ..types import Scope, Tensors


class MetricsState(TypedDict):
    """What the last call saw: a step reports it among its Metrics."""

    metrics: dict[str, Tensor]  # float32, 0-d each


def grad_norm(grads: Tensors, params: Tensors) -> Tensor:
    """The global norm of the gradients, whatever the params."""
    return global_norm(grads)


@record
class Tap:
    """Report a number about the gradients at this place of a chain, without a wait for the device.

    `measure(grads, params)` returns a 0-d tensor: the global norm unless told otherwise. Gradients pass unchanged.

    >>> tap, params = Tap("norm_here"), {"w": torch.zeros(2)}
    >>> grads, state = tap.transform({"w": torch.tensor([3.0, 4.0])}, tap.init_state(params), params)
    >>> state["metrics"]
    {'norm_here': tensor(5.)}
    """

    scope: ClassVar[Scope] = "leaf"

    name: str
    measure: Callable[[Tensors, Tensors], Tensor] = attrs.field(default=grad_norm)

    def init_state(self, params: Tensors) -> MetricsState:
        """A zero under the name."""
        check_params("Tap", params)
        return {"metrics": {self.name: torch.zeros((), dtype=torch.float32, device=device_of(params))}}

    def transform(self, grads: Tensors, state: MetricsState, params: Tensors) -> tuple[dict[str, Tensor], MetricsState]:
        """The same gradients; the number goes into the state."""
        check_grads("Tap", grads, params)
        seen = self.measure(grads, params)
        return dict(grads), {"metrics": {self.name: seen.to(device_of(params), torch.float32)}}


@record
class NanToZero:
    """Replace every nan and infinity by 0, and report how many there were as `zeroed`.

    For loops of your own: a step that `make_step` made skips such an update before any transform sees it.

    Law: finite gradients pass unchanged; the result is finite.

    >>> transform, params = NanToZero(), {"w": torch.zeros(2)}
    >>> transform.transform({"w": torch.tensor([float("nan"), 4.0])}, transform.init_state(params), params)
    ({'w': tensor([0., 4.])}, {'metrics': {'zeroed': tensor(1.)}})
    """

    scope: ClassVar[Scope] = "global"

    def init_state(self, params: Tensors) -> MetricsState:
        """Nothing zeroed yet."""
        check_params("NanToZero", params)
        return {"metrics": {"zeroed": torch.zeros((), dtype=torch.float32, device=device_of(params))}}

    def transform(self, grads: Tensors, state: MetricsState, params: Tensors) -> tuple[dict[str, Tensor], MetricsState]:
        """The gradients, all finite."""
        check_grads("NanToZero", grads, params)
        zeroed = torch.zeros((), device=device_of(params))
        for leaf in grads.values():
            zeroed = zeroed + (~torch.isfinite(leaf)).sum().to(zeroed.device)
        return tmap(_finite, grads), {"metrics": {"zeroed": zeroed.to(torch.float32)}}


def _finite(leaf: Tensor) -> Tensor:
    return torch.where(torch.isfinite(leaf), leaf, torch.zeros_like(leaf))
