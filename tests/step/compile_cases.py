"""What the tests of compiled steps share: small steps that compile in a few seconds, and how close is close."""

import torch
from step_cases import make_batch, squared
from torch import nn

from fnopt import (
    AdamW,
    ClipNorm,
    DynamicLossScale,
    accumulate,
    chain,
    compiled,
    decay_labels,
    ema,
    evolve,
    make_step,
    partition,
    snapshot,
    value_and_grad,
    warmup_cosine,
)

# Of max(|p|, |update|), per step from the same state. An update from equal gradients: eager multiplies and adds with
# one rounding, kernels with two. A whole network: its gradient is a sum of some 64 terms, added in another order.
BOUND, NETWORK_BOUND = 3e-7, 64 * 2.0**-24


def counted(model, batch):
    """The squared loss, and how many outputs are positive; the model runs twice, and draws twice."""
    loss, weight = squared(model, batch)
    return loss, weight, {"positive": (model(batch[0]) > 0).sum(), "loss_again": loss}


def network():
    """Matrices, a normalization with running statistics, dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 4)
        )


def composed(model, loss=counted, wrap=lambda grad_fn: grad_fn):
    """Everything at once: clip, average, two groups, a schedule, a dynamic loss scale."""
    adamw = AdamW(lr=warmup_cosine(peak=3e-2, warmup=2, total=50), weight_decay=0.1)
    groups = {"decay": adamw, "no_decay": evolve(adamw, weight_decay=0.0)}
    optimizer = chain(ClipNorm(1.0), ema(partition(groups, decay_labels(model)), decay=0.9))
    return make_step(wrap(value_and_grad(model, loss)), optimizer, loss_scale=DynamicLossScale())


def accumulated(model):
    """The composed step over micro-batches."""
    return composed(model, wrap=accumulate)


def quadratic(params, batch):
    """A loss without matrices, whose step is one kernel."""
    return ((params["w"] - batch).square().sum() + params["v"].square().sum()) * len(batch), len(batch)


def small(optimizer=None, donate=True):
    """(step, its first state): a compiled step of two small parameters."""
    optimizer = AdamW(lr=0.1) if optimizer is None else optimizer
    step = compiled(make_step(value_and_grad(quadratic), optimizer), donate)
    return step, step.init_state({"w": torch.linspace(-1, 1, 6), "v": torch.ones(2, 2)}, seed=5)


def batch_of(seed, n=6):
    """A batch for `small`."""
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def micro_batches(seed, *sizes):
    """A list of micro-batches of these sizes."""
    return [make_batch(seed + place, size) for place, size in enumerate(sizes)]


def gap(old, new, other):
    """The largest difference of two results of a step, over max(|p|, |update|) of its entry's own."""
    worst = 0.0
    for name, before in old.params.items():
        a, b = new.params[name].double(), other.params[name].double()
        scale = torch.maximum(b.abs(), (b - before.double()).abs()).clamp_min(1e-30)
        worst = max(worst, ((a - b).abs() / scale).max().item() if len(before) else 0.0)
    return worst


def side_by_side(step, kernels, state, batches):
    """(gap, metrics, eager metrics, states) of each step: eager begins where the compiled one is, every time."""
    found = []
    for batch in batches:
        old = snapshot(state)
        expected, wanted = step.step(snapshot(state), batch)
        state, metrics = kernels.step(state, batch)
        found.append((gap(old, state, expected), metrics, wanted, snapshot(state), expected))
    return found


def close(a, b, rtol=1e-5, atol=1e-6):
    """The same names in the same order, dtypes, and values to rounding."""
    assert list(a) == list(b)
    for name, leaf in b.items():
        assert a[name].dtype == leaf.dtype, name
        assert torch.allclose(a[name].double(), leaf.double(), rtol=rtol, atol=atol, equal_nan=True), name
    return True
