"""A compiled step takes the batches of the step inside, and a GradFn is no step."""

import torch
from torch import Tensor

import fnopt


def loss(params: dict[str, Tensor], x: Tensor) -> tuple[Tensor, int]:
    return (params["w"] * x).sum(), len(x)


grad_fn = fnopt.value_and_grad(loss)
step = fnopt.compiled(fnopt.make_step(fnopt.accumulate(grad_fn), fnopt.AdamW()))
state = step.init_state({"w": torch.ones(3)})
step.step(state, torch.ones(3))  # error: reportArgumentType
fnopt.compiled(grad_fn)  # error: reportArgumentType
print(state.parms)  # error: reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType
