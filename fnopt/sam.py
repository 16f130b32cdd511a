"""Sharpness-aware minimization as a GradFn -> GradFn."""

from typing import Any, TypeVar

import torch
from torch import Tensor

from .grads import Graded, GradFn
from .record import evolve, hyper, positive, record
from .state import TrainState
from .tensors import as_tensor, at, global_norm, scaled_add
from .types import Hyper

B = TypeVar("B")


@record
class Sam:
    """What `sam` makes: a GradFn that takes the gradient uphill of where the params are."""

    grad_fn: GradFn[Any]
    rho: Hyper = hyper(default=0.05, check=positive)

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        here = self.grad_fn(state, batch)
        (rho,) = at(state.updates, self.rho)
        norm = global_norm(here.grads)
        length = torch.where(norm > 0, as_tensor(rho, norm) / torch.where(norm > 0, norm, 1.0), 0.0)

        def climb(p: Tensor, g: Tensor) -> Tensor:
            return scaled_add(p.to(g.dtype), length, g).to(p.dtype)

        uphill = {name: climb(p, here.grads[name]) for name, p in state.params.items()}
        there = self.grad_fn(evolve(state, params=uphill), batch)
        # each sum is over its own weight: one pass may have dropped a micro-batch that the other could use
        share = torch.where(here.weight > 0, there.weight / torch.where(here.weight > 0, here.weight, 1.0), 0.0)
        return evolve(
            here,
            grads=there.grads,
            loss=here.loss * share,
            weight=there.weight,
            aux={name: value * share for name, value in here.aux.items()},
            dropped=torch.maximum(here.dropped, there.dropped),
        )


def sam(grad_fn: GradFn[B], rho: Hyper = 0.05) -> GradFn[B]:
    r"""The gradient at the worst point nearby: `g(p + rho g(p) / ||g(p)||)`, for any GradFn g.

    Costs two gradients. Loss, aux and buffers are those at the params themselves, so BatchNorm's statistics move once.
    Both passes draw the same randomness. Around `accumulate` it is SAM of the whole batch, inside of it SAM of each
    micro-batch (m-sharpness); the loss scale is not visible to it, as gradients are never scaled.

    >>> from fnopt import value_and_grad
    >>> grad_fn = sam(value_and_grad(lambda params, x: ((params["w"] * x).square().sum(), len(x))), rho=0.5)
    >>> grad_fn(TrainState.of({"w": torch.ones(())}), torch.tensor([1.0])).grads          # 2 (1 + 0.5)
    {'w': tensor(3.)}

    Raises HyperparameterError unless rho > 0. Source: Foret et al. 2021, arXiv:2010.01412.
    """
    return Sam(grad_fn, rho)
