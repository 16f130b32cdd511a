"""The drop-in: fnopt.optim.AdamW.step on parameters that lie apart, against torch.optim.AdamW.

python tests/bench/drop_in.py [CLAIM ...]
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from harness import Claim, Pair, main
from shapes import Shapes, drawn, gpt, many
from torch import nn
from update import torch_update

import fnopt
from fnopt import optim

MLP = {"w1": (128, 64), "b1": (128,), "w2": (128, 128), "b2": (128,), "w3": (10, 128), "b3": (10,)}


def ours(shapes: Shapes, **options: Any) -> Callable[[], Any]:
    """The step; what was to be compiled and is not is an error."""
    warnings.simplefilter("error", fnopt.FallbackWarning)
    params = [nn.Parameter(leaf) for leaf in drawn(shapes, 0).values()]
    for param, grad in zip(params, drawn(shapes, 1).values(), strict=True):
        param.grad = grad
    optimizer = optim.AdamW(params, lr=1e-3, **options)
    optimizer.step()
    return optimizer.step


def claim(name: str, what: str, target: float, shapes: Shapes, peer: str, calls: int, **options: Any) -> Claim:
    """A row: our step against torch's as it comes, or against its fused kernel."""

    def make() -> Pair:
        theirs = {"fused": True} if peer == FUSED else {}
        return Pair(ours(shapes, **options), torch_update(shapes, **theirs), calls=calls)

    return Claim(name, what, peer, target, make)


DEFAULT, FUSED = "torch.optim.AdamW default", "torch fused"
compiled = partial(claim, compile=True)
CLAIMS = [
    claim("optim_gpt", "optim.AdamW, GPT 10.8 M, 76 tensors", 1.0, gpt(), DEFAULT, 3),
    claim("optim_many", "optim.AdamW, 1,000 tensors", 0.15, many(), DEFAULT, 10),
    claim("optim_many_fused", "optim.AdamW, 1,000 tensors", 0.6, many(), FUSED, 10),
    compiled("optim_compiled_gpt", "optim.AdamW(compile=True), GPT 10.8 M", 1.15, gpt(), FUSED, 10),
    compiled("optim_compiled_many", "optim.AdamW(compile=True), 1,000 tensors", 0.45, many(), FUSED, 10),
    claim("optim_mlp", "optim.AdamW, an MLP of 6 tensors", 1.0, MLP, DEFAULT, 100),
]


if __name__ == "__main__":
    main(CLAIMS)
