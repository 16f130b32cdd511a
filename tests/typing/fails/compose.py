"""Optimizers put together wrongly: each marked line must be an error, of the rule that it names."""

import torch
from torch import Tensor, nn

import fnopt

model = nn.Linear(2, 2)
stateful = torch.optim.AdamW(model.parameters())


def loss(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    return model(x).sum(), len(x)


grad_fn = fnopt.value_and_grad(model, loss)

fnopt.chain(fnopt.AdamW(0.1), fnopt.ClipNorm(1.0))  # error: reportCallIssue, reportArgumentType
fnopt.chain(fnopt.AdamW(0.1), fnopt.SGD(0.1))  # error: reportCallIssue, reportArgumentType
fnopt.chain(fnopt.ClipNorm(1.0), stateful)  # error: reportCallIssue, reportArgumentType
fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW)  # error: reportCallIssue, reportArgumentType
fnopt.make_step(grad_fn, fnopt.ClipNorm(1.0))  # error: reportArgumentType
fnopt.make_step(grad_fn, fnopt.chain(fnopt.ClipNorm(1.0)))  # error: reportArgumentType
fnopt.make_step(grad_fn, stateful)  # error: reportArgumentType
fnopt.make_step(grad_fn, fnopt.AdamW)  # error: reportArgumentType
fnopt.make_step(grad_fn, fnopt.SGD(0.1), loss_scale=2.0**16)  # error: reportArgumentType
fnopt.make_step(loss, fnopt.SGD(0.1))  # error: reportArgumentType
fnopt.ema(fnopt.ClipNorm(1.0))  # error: reportArgumentType
fnopt.partition({"all": fnopt.ClipNorm(1.0)}, {"w": "all"})  # error: reportArgumentType
fnopt.AdamW(model.parameters())  # error: reportArgumentType
fnopt.AdamW(list(model.parameters()), lr=0.1)  # error: reportCallIssue
fnopt.AdamW(betas=0.9)  # error: reportArgumentType
fnopt.SGD(0.1).init_state(model)  # error: reportArgumentType

params = {"w": torch.ones(2)}
fnopt.AdamW(0.1).update(params, fnopt.SGD(0.1).init_state(params), params)  # error: reportArgumentType
