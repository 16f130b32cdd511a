"""`autocast`: mixed precision as a GradFn -> GradFn."""

from typing import Any, TypeVar

import attrs
import torch

from .errors import HyperparameterError
from .grads import Graded, GradFn
from .record import record
from .state import TrainState
from .tensors import device_of

B = TypeVar("B")


def _half(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if value not in (torch.bfloat16, torch.float16):
        raise HyperparameterError(
            f"autocast: {attribute.name} must be torch.bfloat16 or torch.float16, got {value!r}; for float32 leave "
            "autocast out"
        )


@record
class Autocast:
    """What `autocast` makes: a GradFn whose forward pass runs under torch.autocast."""

    grad_fn: GradFn[Any]
    dtype: torch.dtype = attrs.field(default=torch.bfloat16, validator=_half)

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        with torch.autocast(device_of(state.params).type, self.dtype):
            return self.grad_fn(state, batch)


def autocast(grad_fn: GradFn[B], dtype: torch.dtype = torch.bfloat16) -> GradFn[B]:
    """Run matrix products and convolutions of the forward pass in bfloat16 or float16; params and grads stay float32.

    float16 underflows below 6e-8: give the step a `loss_scale` with it. Works inside and around `accumulate`.

    >>> from fnopt import value_and_grad
    >>> grad_fn = autocast(value_and_grad(lambda params, x: ((x @ params["w"]).float().sum(), len(x))))
    >>> grad_fn(TrainState.of({"w": torch.ones(2, 1)}), torch.ones(3, 2)).grads["w"].dtype
    torch.float32

    Raises HyperparameterError for another dtype. Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """
    return Autocast(grad_fn, dtype)
