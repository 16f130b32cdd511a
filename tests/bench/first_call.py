"""The first call, nothing cached: how long the AdamW chain compiles, for 76 tensors and for 1,000.

python tests/bench/first_call.py
"""

import tempfile
import time
from typing import Any
from unittest.mock import patch

import torch
from harness import Claim, Figures, main
from shapes import Shapes, drawn, gpt, many
from torch import nn
from update import Given

import fnopt


def seconds(shapes: Shapes) -> float:
    """Of the first call of a compiled step whose parameters lie apart, with an empty cache on disk."""
    optimizer = fnopt.ema(fnopt.chain(fnopt.ClipNorm(1.0), fnopt.AdamW(1e-3)), 0.999)
    step = fnopt.compiled(fnopt.make_step(Given(), optimizer, loss_scale=fnopt.DynamicLossScale()))
    state, grads = step.init_state(drawn(shapes, 0)), drawn(shapes, 1)
    with cold():
        begin = time.perf_counter()
        step.step(state, grads)
        taken = time.perf_counter() - begin
    if step.stats.mode != "compiled":
        raise SystemExit(f"refused, this is {step.stats}")
    return taken


def cold() -> Any:
    """Inductor's caches in an empty folder."""
    return patch.dict("os.environ", {"TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp()})


def warm_up() -> None:
    """The machine's one-time probes of instruction sets, which are no part of the claim."""
    torch.compile(lambda x: x + 1)(torch.ones(8))


def against_limit() -> Figures:
    """Ours, over one second: the target is in seconds."""
    warm_up()
    return Figures(seconds(gpt()), 1.0)


def against_heavyball() -> Figures:
    """Ours and HeavyBall's first step, on the same shapes."""
    import heavyball

    warm_up()
    params = [nn.Parameter(leaf) for leaf in drawn(gpt(), 0).values()]
    for param, grad in zip(params, drawn(gpt(), 1).values(), strict=True):
        param.grad = grad
    optimizer = heavyball.AdamW(params, lr=1e-3)
    with cold():
        begin = time.perf_counter()
        optimizer.step()
        peer = time.perf_counter() - begin
    return Figures(seconds(gpt()), peer)


def many_against_few() -> Figures:
    """1,000 tensors and 76."""
    warm_up()
    few = seconds(gpt())
    return Figures(seconds(many()), few)


CLAIMS = [
    Claim("first_call", "first call of the chain, 76 tensors", "one second", 5.0, against_limit, unit="s"),
    Claim("first_call_many", "first call, 1,000 tensors", "76 tensors", 1.3, many_against_few, unit="s"),
    Claim("first_call_heavyball", "first call, 76 tensors", "HeavyBall AdamW", 1.0, against_heavyball, unit="s"),
]


if __name__ == "__main__":
    main(CLAIMS)
