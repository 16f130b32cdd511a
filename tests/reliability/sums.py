"""P17: k micro-batches give the gradient of the one large batch, whatever their sizes."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F
from verdict import Verdict

import fnopt

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6}  # of the largest entry


def accumulated() -> Verdict:
    """Every division of 12 samples into up to 5 parts that the seed draws, in both precisions."""
    verdict = Verdict()
    for (dtype, bound), parts, seed in itertools.product(BOUNDS.items(), range(1, 6), range(8)):
        torch.manual_seed(seed)
        model, x, y = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype), torch.randn(12, 4), None
        x, y = x.to(dtype), torch.randint(3, (12,))
        cuts = sorted(torch.randperm(11)[: parts - 1].add(1).tolist())
        pieces = [(x[a:b], y[a:b]) for a, b in itertools.pairwise([0, *cuts, 12])]
        oracle = fnopt.value_and_grad(model, _loss)
        state = fnopt.make_step(oracle, fnopt.SGD(lr=0.1)).init_state(model)
        one, many = oracle(state, (x, y)), fnopt.accumulate(oracle)(state, pieces)
        worst = max(float((many.grads[name] - grad).abs().max() / grad.abs().max()) for name, grad in one.grads.items())
        verdict.check(worst <= bound, f"{dtype} in {parts} parts: {worst:.1e}")
    return verdict


def _loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, int]:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])
