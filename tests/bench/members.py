"""Many small models at once, each with its own learning rate: against training them one after another, and against JAX.

python tests/bench/members.py [CLAIM ...]
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from harness import Claim, Pair, main
from whole_step import jax_loss, loss, mlp, mlp_batch, theirs

import fnopt


def ours(size: int) -> tuple[Callable[[], Any], Any]:
    """One compiled step of an ensemble."""
    lrs = torch.logspace(-4, -2, size)
    optimizer = fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW(lr=lrs))
    model, batch = mlp(), mlp_batch()
    step = fnopt.compiled(fnopt.ensemble(fnopt.make_step(fnopt.value_and_grad(model, loss), optimizer), size))
    held = [step.init_state(model)]

    def call() -> None:
        held[0], _ = step.step(held[0], batch)

    call()
    return call, step


def sequential(size: int) -> Callable[[], Any]:
    """As many torch loops, one after another."""
    loops = [theirs(mlp(), mlp_batch()) for _ in range(size)]

    def call() -> None:
        for loop in loops:
            loop()

    return call


def jax_members(size: int) -> Callable[[], Any]:
    """The same ensemble in JAX: vmap over members of a jitted, donated Optax step."""
    import jax
    import optax

    jnp, sizes = jax.numpy, (64, 128, 128, 10)
    keys = jax.random.split(jax.random.key(0), size)
    params = [
        (jax.vmap(lambda key, m=m, n=n: jax.random.normal(key, (m, n)) / m**0.5)(keys), jnp.zeros((size, n)))
        for m, n in pairwise(sizes)
    ]
    value = jax_loss()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(1e-2))

    def step(params: Any, state: Any, lr: Any) -> Any:
        found, grads = jax.value_and_grad(value)(params)
        updates, state = optimizer.update(grads, state, params)
        updates = jax.tree.map(lambda leaf: -lr * leaf, updates)
        return optax.apply_updates(params, updates), state, found

    jitted = jax.jit(jax.vmap(step), donate_argnums=(0, 1))
    lrs = jnp.logspace(-4, -2, size)
    held = [params, jax.vmap(optimizer.init)(params)]

    def call() -> None:
        held[0], held[1], found = jitted(held[0], held[1], lrs)
        found.block_until_ready()

    return call


def pair(size: int, peer: Callable[[int], Callable[[], Any]]) -> Pair:
    """Ours and the peer's."""
    run, step = ours(size)
    return Pair(run, peer(size), step.stats, 3)


LOOP = "torch loops, fused AdamW, one after another"
CLAIMS = [
    Claim("members_64", "64 MLPs with own lr, 2 threads", LOOP, 0.24, lambda: pair(64, sequential)),
    Claim("members_32", "32 MLPs with own lr, 1 thread", LOOP, 0.12, lambda: pair(32, sequential), threads=1),
    Claim("members_jax", "64 MLPs with own lr", "JAX vmap, Optax, jit, donated", 1.0, lambda: pair(64, jax_members)),
]


if __name__ == "__main__":
    main(CLAIMS)
