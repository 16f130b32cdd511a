"""A compiled step is a step of the same batches; what it has seen of them is there to ask."""

from typing import assert_type

import torch
from torch import Tensor

import fnopt


def loss(params: dict[str, Tensor], x: Tensor) -> tuple[Tensor, int]:
    return (params["w"] * x).sum(), len(x)


step = fnopt.compiled(fnopt.make_step(fnopt.accumulate(fnopt.value_and_grad(loss)), fnopt.AdamW()))
on_lists: fnopt.StepFn[list[Tensor]] = step
state = step.init_state({"w": torch.ones(3)}, seed=1)
state, metrics = step.step(state, [torch.ones(3)])
assert_type(state, fnopt.TrainState)
assert_type(metrics, dict[str, Tensor])
assert_type(step.last_state, fnopt.TrainState | None)
assert_type(step.stats.compiles, int)
assert_type(step.stats.fallback, str | None)
step = fnopt.evolve(step, optimizer=fnopt.AdamW(0.1))
state, metrics = fnopt.compiled(step.inner, donate=False).step(state, [torch.ones(3)])
