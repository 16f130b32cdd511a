"""The whole optimizer API on plain dicts, a loss of params, and what the types of the pieces are."""

from typing import assert_type

import torch
from torch import Tensor

import fnopt


def loss(params: dict[str, Tensor], x: Tensor) -> tuple[Tensor, float, dict[str, float | Tensor]]:
    return (params["w"] * x).sum(), len(x), {"hits": 3, "energy": x.sum()}


params = {"w": torch.ones(3)}
adamw = fnopt.AdamW(lr=torch.tensor(0.1), betas=(0.9, 0.95))
opt_state = adamw.init_state(params)
params, opt_state = adamw.update({"w": torch.ones(3)}, opt_state, params)
assert_type(params, dict[str, Tensor])
assert_type(opt_state["step"], Tensor)

grad_fn = fnopt.value_and_grad(loss)
assert_type(grad_fn, fnopt.GradFn[Tensor])
assert_type(fnopt.accumulate(grad_fn), fnopt.GradFn[list[Tensor]])
assert_type(fnopt.accumulate(fnopt.accumulate(grad_fn)), fnopt.GradFn[list[list[Tensor]]])

step = fnopt.make_step(fnopt.autocast(grad_fn), fnopt.ema(adamw))
state, metrics = step.step(step.init_state(params), torch.ones(3))
assert_type(state, fnopt.TrainState)
assert_type(metrics, dict[str, Tensor])
assert_type(fnopt.evolve(adamw, lr=0.3), fnopt.AdamW)
assert_type(fnopt.snapshot(state), fnopt.TrainState)

step_fn: fnopt.StepFn[Tensor] = step
on_lists: fnopt.StepFn[list[Tensor]] = fnopt.make_step(fnopt.accumulate(grad_fn), adamw)
