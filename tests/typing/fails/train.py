"""Losses, batches and steps used wrongly: each marked line must be an error, of the rule that it names."""

import torch
from torch import Tensor, nn

import fnopt

model = nn.Linear(2, 2)
pair = (torch.ones(3, 2), torch.ones(3, 2))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    return (model(batch[0]) - batch[1]).square().sum(), len(batch[0])


def mean_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def with_output(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int, Tensor]:
    return model(batch[0]).sum(), len(batch[0]), model(batch[0])


grad_fn = fnopt.value_and_grad(model, loss)
single = fnopt.make_step(grad_fn, fnopt.SGD(0.1))
several = fnopt.make_step(fnopt.accumulate(grad_fn), fnopt.SGD(0.1))
state = single.init_state(model)

fnopt.value_and_grad(model, mean_loss)  # error: reportArgumentType
fnopt.value_and_grad(model, with_output)  # error: reportArgumentType
fnopt.value_and_grad(loss, model)  # error: reportArgumentType
grad_fn(state, [pair])  # error: reportArgumentType
grad_fn(state, pair[0])  # error: reportArgumentType
single.step(state, [pair])  # error: reportArgumentType
several.step(state, pair)  # error: reportArgumentType
several.step(state, (pair, pair))  # error: reportArgumentType
fnopt.accumulate(grad_fn)(state, pair)  # error: reportArgumentType
fnopt.autocast(grad_fn, "bfloat16")  # error: reportArgumentType
single.init_state(model.parameters())  # error: reportArgumentType
single.init_state(model, seed="0")  # error: reportArgumentType
fnopt.run(single, state, [pair], updates=3)  # error: reportArgumentType
fnopt.load_into(state, model)  # error: reportArgumentType
state.position = 3  # error: reportAttributeAccessIssue
del state.params  # error: reportAttributeAccessIssue
