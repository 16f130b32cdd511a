"""Forward, backward, clip and AdamW as one step: against the loops that PyTorch and JAX users write.

python tests/bench/whole_step.py [CLAIM ...]
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from harness import Claim, Pair, main
from torch import Tensor, nn
from torch.nn import functional as F

import fnopt
from fnopt.cli.gpt import GPT

Batch = tuple[Tensor, Tensor]


def mlp() -> nn.Module:
    """64-128-128-10."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def mlp_batch() -> Batch:
    """64 rows."""
    return torch.randn(64, 64), torch.randint(10, (64,))


def gpt() -> nn.Module:
    """0.88 M parameters: the demo's."""
    torch.manual_seed(0)
    return GPT(width=128, layers=4, heads=4, context=128)


def gpt_batch() -> Batch:
    """8 windows of 128 bytes."""
    return torch.randint(256, (8, 128)), torch.randint(256, (8, 128))


def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Cross-entropy, summed."""
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten(), reduction="sum"), y.numel()


def ours(model: nn.Module, batch: Batch, autocast: bool = False) -> tuple[Callable[[], Any], Any]:
    """The compiled step."""
    grad_fn = fnopt.value_and_grad(model, loss)
    if autocast:
        grad_fn = fnopt.autocast(grad_fn, torch.bfloat16)
    step = fnopt.compiled(fnopt.make_step(grad_fn, fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW(1e-3))))
    held = [step.init_state(model)]

    def call() -> None:
        held[0], _ = step.step(held[0], batch)

    call()
    return call, step


def theirs(model: nn.Module, batch: Batch, autocast: bool = False, compile: bool = False) -> Callable[[], Any]:
    """The usual loop: fused AdamW, clip_grad_norm_, and a compiled model if asked."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    run = torch.compile(model) if compile else model
    x, y = batch

    def call() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = F.cross_entropy(run(x).flatten(0, -2), y.flatten())
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return call


def jax_loss() -> Callable[[Any], Any]:
    """The loss of the MLP's params, a (weight, bias) for each layer, on its batch."""
    import jax
    import optax

    x, y = (jax.numpy.asarray(part.numpy()) for part in mlp_batch())

    def value(params: Any) -> Any:
        h = x
        for place, (w, b) in enumerate(params):
            h = h @ w + b
            h = jax.nn.relu(h) if place < len(params) - 1 else h
        return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

    return value


def jax_mlp() -> Callable[[], Any]:
    """The same MLP in JAX, with Optax, jitted, the state donated."""
    import jax
    import optax

    jnp, key = jax.numpy, jax.random.key(0)
    sizes = (64, 128, 128, 10)
    params = [(jax.random.normal(key, (m, n)) / m**0.5, jnp.zeros(n)) for m, n in pairwise(sizes)]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=1e-2))
    value = jax_loss()

    def step(params: Any, state: Any) -> Any:
        found, grads = jax.value_and_grad(value)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, found

    jitted = jax.jit(step, donate_argnums=(0, 1))
    held = [params, optimizer.init(params)]

    def call() -> None:
        held[0], held[1], found = jitted(*held)
        found.block_until_ready()

    return call


def pair(
    model: Callable[[], nn.Module], batch: Batch, calls: int, autocast: bool = False, compile: bool = False
) -> Pair:
    """Ours and torch's, on the same model and batch."""
    run, step = ours(model(), batch, autocast)
    return Pair(run, theirs(model(), batch, autocast, compile), step.stats, calls)


def against_jax() -> Pair:
    """Ours and JAX's."""
    run, step = ours(mlp(), mlp_batch())
    return Pair(run, jax_mlp(), step.stats, 100)


LOOP = "torch loop, fused AdamW, clip"
COMPILED = "torch.compile'd model, fused AdamW, clip"
CLAIMS = [
    Claim("mlp", "whole step, MLP", LOOP, 0.38, lambda: pair(mlp, mlp_batch(), 100)),
    Claim("mlp_jax", "whole step, MLP", "JAX and Optax, jit, donated", 0.90, against_jax),
    Claim("gpt_fp32", "whole step, GPT 0.88 M, fp32", COMPILED, 0.95, lambda: pair(gpt, gpt_batch(), 3, compile=True)),
    Claim(
        "gpt_bf16",
        "whole step, GPT 0.88 M, bf16 autocast",
        COMPILED,
        1.05,
        lambda: pair(gpt, gpt_batch(), 3, autocast=True, compile=True),
    ),
]


if __name__ == "__main__":
    main(CLAIMS)
