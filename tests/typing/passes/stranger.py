"""Optimizers, transforms and GradFns of one's own fit in by their shape alone: nothing of fnopt is inherited."""

from typing import TypedDict

import torch
from torch import Tensor

import fnopt
from fnopt.types import Tensors


class Count(TypedDict):
    step: Tensor


@fnopt.record
class SignDescent:
    lr: float = 0.1

    def init_state(self, params: Tensors) -> Count:
        return {"step": torch.zeros((), dtype=torch.int64)}

    def update(self, grads: Tensors, state: Count, params: Tensors) -> tuple[dict[str, Tensor], Count]:
        new = {name: p - self.lr * grads[name].sign() for name, p in params.items()}
        return new, {"step": state["step"] + 1}


class Negate:
    def init_state(self, params: Tensors) -> dict[str, Tensor]:
        return {}

    def transform(
        self, grads: Tensors, state: dict[str, Tensor], params: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {name: -leaf for name, leaf in grads.items()}, state


def halved(inner: fnopt.GradFn[Tensor]) -> fnopt.GradFn[Tensor]:
    def grad_fn(state: fnopt.TrainState, batch: Tensor, /) -> fnopt.Graded:
        graded = inner(state, batch)
        return fnopt.evolve(graded, grads={name: leaf / 2 for name, leaf in graded.grads.items()})

    return grad_fn


def loss(params: dict[str, Tensor], x: Tensor) -> tuple[Tensor, int]:
    return (params["w"] * x).sum(), len(x)


optimizer = fnopt.chain(Negate(), fnopt.ClipNorm(1.0), fnopt.ema(SignDescent(lr=0.3)))
step = fnopt.make_step(halved(fnopt.value_and_grad(loss)), optimizer)
transform = fnopt.chain(Negate(), fnopt.ClipNorm(1.0))
nested = fnopt.chain(transform, fnopt.partition({"all": SignDescent()}, {"w": "all"}))
