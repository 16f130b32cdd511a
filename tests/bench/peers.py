"""The same AdamW update, and the same small step, by everybody else who is installed.

python tests/bench/peers.py [CLAIM ...]
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Claim, Pair, main
from shapes import drawn, gpt
from torch import nn
from torch.nn import functional as F
from update import Stats, torch_adamw, torch_update, update_alone
from whole_step import mlp, mlp_batch, ours


def torch_compiled() -> Callable[[], Any]:
    """torch.compile of the optimizer's step."""
    optimizer, _ = torch_adamw(gpt())
    return torch.compile(optimizer.step)


def torchopt() -> Callable[[], Any]:
    """TorchOpt's functional AdamW, in place."""
    import torchopt

    rule, params, grads = torchopt.adamw(lr=1e-3), drawn(gpt(), 0), drawn(gpt(), 1)
    held: list[Any] = [params, rule.init(params)]

    def call() -> None:
        updates, held[1] = rule.update(grads, held[1], params=held[0], inplace=True)
        held[0] = torchopt.apply_updates(held[0], updates, inplace=True)

    return call


def stateful(module: str) -> Callable[[], Any]:
    """AdamW of a library that subclasses torch.optim."""
    import importlib

    params = [nn.Parameter(leaf) for leaf in drawn(gpt(), 0).values()]
    grads = list(drawn(gpt(), 1).values())
    optimizer = importlib.import_module(module).AdamW(params, lr=1e-3)

    def call() -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad  # HeavyBall consumes them
        optimizer.step()

    return call


def update(peer: Callable[[], Callable[[], Any]]) -> Pair:
    """Ours on packed gradients, and the peer's."""
    run = update_alone(gpt())
    run()
    return Pair(run, peer(), Stats(), 3)


def fabric() -> Callable[[], Any]:
    """The MLP's loop under Lightning Fabric."""
    import lightning

    it = lightning.Fabric(accelerator="cpu", devices=1)
    model, optimizer = it.setup(*_mlp_and_adamw())
    return _loop(model, optimizer, it.backward)


def accelerate() -> Callable[[], Any]:
    """The MLP's loop under Accelerate."""
    from accelerate import Accelerator

    it = Accelerator(cpu=True)
    model, optimizer = it.prepare(*_mlp_and_adamw())
    return _loop(model, optimizer, it.backward)


def _mlp_and_adamw() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = mlp()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def _loop(model: Any, optimizer: Any, backward: Callable[[Any], None]) -> Callable[[], Any]:
    x, y = mlp_batch()

    def call() -> None:
        optimizer.zero_grad()
        backward(F.cross_entropy(model(x), y))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return call


def whole(peer: Callable[[], Callable[[], Any]]) -> Pair:
    """Our step and the peer's loop, on the MLP."""
    run, step = ours(mlp(), mlp_batch())
    return Pair(run, peer(), step.stats, 50)


UPDATES = {
    "torch_default": ("torch.optim.AdamW default", partial(torch_update, gpt())),
    "torch_foreach": ("torch.optim.AdamW foreach", partial(torch_update, gpt(), foreach=True)),
    "torch_compiled": ("torch.compile of torch.optim.AdamW", torch_compiled),
    "torchopt": ("TorchOpt adamw, in place", torchopt),
    "heavyball": ("HeavyBall AdamW", partial(stateful, "heavyball")),
    "pytorch_optimizer": ("pytorch_optimizer AdamW", partial(stateful, "pytorch_optimizer")),
}
LOOPS = {"fabric": ("Lightning Fabric", fabric), "accelerate": ("Accelerate", accelerate)}
CLAIMS = [
    *(
        Claim(name, "AdamW, packed grads, GPT 10.8 M", who, 1.0, partial(update, peer))
        for name, (who, peer) in UPDATES.items()
    ),
    *(Claim(name, "whole step, MLP", who, 1.0, partial(whole, peer)) for name, (who, peer) in LOOPS.items()),
]


if __name__ == "__main__":
    main(CLAIMS)
