"""The update alone, and the whole chain around it, on given gradients: against torch's fused AdamW.

python tests/bench/update.py [CLAIM ...]
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Claim, Pair, main
from shapes import Shapes, drawn, flat, gpt, many
from torch import Tensor, nn

import fnopt
from fnopt.compile.program import Result, make_program
from fnopt.record import record

MILLION = 10**6


@record
class Given:
    """A GradFn of gradients that are there already: the batch is them, scaled, over a weight of 1."""

    def __call__(self, state: Any, batch: dict[str, Tensor]) -> fnopt.Graded:
        scale, one = state.loss_scale["scale"], torch.ones(())
        grads = {name: grad * (1.0 / scale) for name, grad in batch.items()}
        return fnopt.Graded(grads, one, one, {}, {}, torch.zeros((), dtype=torch.int64))


class Stats:
    """What a program without a step is: compiled, or it would not be there."""

    mode, fallback = "compiled", None


def update_alone(shapes: Shapes) -> Callable[[], Any]:
    """AdamW.update of one flat buffer, traced and donated, as adapters call it."""
    rule, params, grads = fnopt.AdamW(1e-3), drawn(flat(shapes), 0), drawn(flat(shapes), 1)
    state = rule.init_state(params)
    leaves = [params["all"], state["step"], state["exp_avg"]["all"], state["exp_avg_sq"]["all"], grads["all"]]

    def traced(leaves: list[Tensor]) -> Result:
        p, step, m, v, g = leaves
        held = {"step": step, "exp_avg": {"all": m}, "exp_avg_sq": {"all": v}, "max_exp_avg_sq": {}}
        new, after = rule.update({"all": g}, held, {"all": p})
        writes = [(p, new["all"]), (step, after["step"])]
        writes += [(m, after["exp_avg"]["all"]), (v, after["exp_avg_sq"]["all"])]
        return Result(writes, [])

    return partial(make_program(traced, leaves, 0), leaves)


def gathered(shapes: Shapes) -> Callable[[], Any]:
    """The same, where gradients lie apart and are copied into the buffer first."""
    run, grads = update_alone(shapes), list(drawn(shapes, 1).values())
    packed = run.args[0][-1]
    views = [part.view(grad.shape) for part, grad in zip(packed.split([g.numel() for g in grads]), grads, strict=True)]

    def call() -> None:
        torch._foreach_copy_(views, grads)
        run()

    return call


def chain(shapes: Shapes) -> tuple[Callable[[], Any], Any]:
    """Unscale, finite test, clip, AdamW, EMA and select as one donated step, on packed gradients."""
    optimizer = fnopt.ema(fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW(1e-3)), 0.999)
    step = fnopt.compiled(fnopt.make_step(Given(), optimizer, loss_scale=fnopt.DynamicLossScale()))
    grads = drawn(flat(shapes), 1, scale=65536.0)
    held = [step.init_state(drawn(flat(shapes), 0))]

    def call() -> None:
        held[0], _ = step.step(held[0], grads)

    return call, step


def torch_update(shapes: Shapes, **options: Any) -> Callable[[], Any]:
    """torch.optim.AdamW on parameters that lie apart."""
    return torch_adamw(shapes, **options)[0].step


def torch_adamw(shapes: Shapes, **options: Any) -> tuple[torch.optim.AdamW, list[nn.Parameter]]:
    """The optimizer and its parameters, with gradients."""
    params = [nn.Parameter(leaf) for leaf in drawn(shapes, 0).values()]
    for param, grad in zip(params, drawn(shapes, 1).values(), strict=True):
        param.grad = grad
    return torch.optim.AdamW(params, lr=1e-3, **options), params


def torch_chain(shapes: Shapes) -> Callable[[], Any]:
    """Its best spelling: unscale by foreach, clip_grad_norm_, whose norm is the finite test, fused AdamW, lerp."""
    optimizer, params = torch_adamw(shapes, fused=True)
    average = [param.detach().clone() for param in params]
    grads = [param.grad for param in params]

    def call() -> None:
        torch._foreach_mul_(grads, 1.0)  # in place: with another scale they would be 0 soon, at the same cost
        norm = nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        if torch.isfinite(norm):
            optimizer.step()
            torch._foreach_lerp_(average, params, 0.001)

    return call


def claim(name: str, what: str, target: float, ours: Callable[[], Any], peer: Callable[[], Any], calls: int) -> Claim:
    """A row of this script."""

    def make() -> Pair:
        mine = ours()
        run, stats = (mine[0], mine[1].stats) if isinstance(mine, tuple) else (mine, Stats())
        run()
        return Pair(run, peer(), stats, calls)

    return Claim(name, what, CHAIN if name.startswith("chain") else "torch fused", target, make)


def alone(name: str, what: str, target: float, shapes: Shapes, calls: int = 10, ours: Any = update_alone) -> Claim:
    """Ours against the fused kernel."""
    return claim(name, what, target, partial(ours, shapes), partial(torch_update, shapes, fused=True), calls)


def chained(name: str, what: str, target: float, shapes: Shapes, calls: int = 10) -> Claim:
    """The whole chain against torch's."""
    return claim(name, what, target, partial(chain, shapes), partial(torch_chain, shapes), calls)


CHAIN = "torch: unscale, clip_grad_norm_, fused AdamW, foreach EMA"
CLAIMS = [
    alone("adamw_gpt", "AdamW, packed grads, GPT 10.8 M", 1.0, gpt()),
    alone("adamw_many", "AdamW, packed grads, 1,000 tensors", 0.08, many(), 30),
    alone("adamw_many_gathered", "AdamW, grads gathered first, 1,000 tensors", 0.2, many(), 30, gathered),
    chained("chain_gpt", "unscale, finite, clip, AdamW, EMA; GPT 10.8 M", 0.6, gpt()),
    chained("chain_many", "the same chain, 1,000 tensors", 0.04, many(), 30),
    alone("adamw_1m", "AdamW, packed, 1 M parameters", 1.0, {"w": (MILLION,)}, 30),
    alone("adamw_10m", "AdamW, packed, 10 M parameters", 1.0, {"w": (10 * MILLION,)}),
    alone("adamw_100m", "AdamW, packed, 100 M parameters", 1.0, {"w": (100 * MILLION,)}, 2),
]


if __name__ == "__main__":
    main(CLAIMS)
