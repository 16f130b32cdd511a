"""The same step under torch.func: hypergradients, a batch of learning rates, and the gradients themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import identical, make_batch, make_model, squared, state_of
from torch import nn

from fnopt import SGD, AdamW, ClipNorm, accumulate, buffers_of, chain, ema, make_step, params_of, value_and_grad

laws = settings(max_examples=6)
seeds = st.integers(0, 2**31)
F64 = torch.float64


def train(optimizer, model, seed, steps=3, accumulated=False):
    """The state and the last metrics after a few steps; everything inside may depend on a transform's input."""
    grad_fn = value_and_grad(model, squared)
    step = make_step(accumulate(grad_fn) if accumulated else grad_fn, optimizer)
    state, metrics = state_of(params_of(model), optimizer, buffers=buffers_of(model), seed=seed), {}
    for place in range(steps):
        batch = make_batch(seed + place, dtype=F64)
        parts = [tuple(half[::2] for half in batch), tuple(half[1::2] for half in batch)]
        state, metrics = step.step(state, parts if accumulated else batch)
    return state, metrics


OPTIMIZERS = {
    "sgd": lambda lr: SGD(lr, momentum=0.9, nesterov=True),
    "adamw": lambda lr: AdamW(lr, weight_decay=0.1),
    "clipped": lambda lr: chain(ClipNorm(0.05), ema(AdamW(lr), 0.9)),
}
OBJECTIVES = {
    "params": lambda state, metrics: sum(leaf.square().sum() for leaf in state.params.values()),
    "loss": lambda state, metrics: metrics["loss"],
    "grad_norm": lambda state, metrics: metrics["grad_norm"],
}


@laws
@given(seeds, st.booleans())
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hypergradients_are_finite_differences(optimizer, objective, seed, accumulated):
    """d objective / d lr through three steps with dropout equals the difference quotient, in float64.

    Central differences with h = 1e-6 carry h^2 f''' / 6 and 2^-53 |f| / h = 1e-10 |f|: 1e-5 of the larger is ample.
    """
    model = make_model("dropout", seed).double()

    def value(lr):
        return OBJECTIVES[objective](*train(OPTIMIZERS[optimizer](lr), model, seed, accumulated=accumulated))

    lr, h = torch.tensor(0.01, dtype=F64), 1e-6
    slope = torch.func.grad(value)(lr)
    quotient = (value(lr + h) - value(lr - h)) / (2 * h)
    assert slope.abs() > 1e-6  # an objective cut off from lr would have slope 0
    assert abs(slope - quotient) <= 1e-5 * max(abs(quotient), abs(value(lr)))


@laws
@given(seeds)
@pytest.mark.parametrize("objective", ["params", "loss"])
def test_hypergradient_of_the_weights_of_samples(objective, seed):
    """A weight that depends on the outer variable counts in the division too: learning to reweight samples."""
    x, y = make_batch(seed, 6, dtype=F64)
    params = {"w": torch.ones(4, dtype=F64)}

    def value(log_weights):
        def loss(p, _):
            weights = log_weights.exp()
            return (weights * ((x * p["w"]).sum(1) - y[:, 0]).square()).sum(), weights.sum()

        optimizer = SGD(0.01)
        step = make_step(value_and_grad(loss), optimizer)
        return OBJECTIVES[objective](*step.step(state_of(params, optimizer), None))

    at, h = torch.linspace(-1, 1, 6, dtype=F64), 1e-6
    slopes = torch.func.grad(value)(at)
    for place in range(6):
        nudge = h * torch.eye(6, dtype=F64)[place]
        quotient = (value(at + nudge) - value(at - nudge)) / (2 * h)
        assert abs(slopes[place] - quotient) <= 1e-5 * max(1e-3, abs(quotient))
    assert slopes.abs().max() > 1e-4


@laws
@given(seeds, st.lists(st.floats(1e-4, 0.1), min_size=1, max_size=4))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_vmap_over_learning_rates_is_the_loop(optimizer, seed, lrs):
    """One program for many learning rates gives each what its own run gives, to 1e-12 of the largest weight."""
    model = make_model("mlp", seed).double()

    def run(lr):
        state, metrics = train(OPTIMIZERS[optimizer](lr), model, seed)
        return state.params, metrics["loss"]

    batch = torch.tensor(lrs, dtype=F64)
    params, losses = torch.func.vmap(run, randomness="same")(batch)  # it draws batches
    for place, lr in enumerate(batch):
        alone, loss = run(lr)
        for name, leaf in alone.items():
            assert (params[name][place] - leaf).abs().max() <= 1e-12 * leaf.abs().max()
        assert abs(losses[place] - loss) <= 1e-12 * loss
    assert len(set(losses.tolist())) == len(set(lrs))  # the learning rates arrived


@laws
@given(seeds)
@pytest.mark.parametrize("kind", ["mlp", "batch_norm", "dropout", "shared", "partial", "assigning", "parametrized"])
def test_a_transform_changes_no_gradient(kind, seed):
    """Inside a transform the gradients, loss and buffers have the same bits as outside."""
    model = make_model(kind, seed)
    grad_fn = value_and_grad(model, squared)
    state, batch = make_step(grad_fn, SGD(0.1)).init_state(model, seed=seed), make_batch(seed)

    def inside(x):
        graded = grad_fn(state, batch)
        return x, (graded.grads, graded.loss, graded.weight, graded.buffers)

    _, found = torch.func.grad(inside, has_aux=True)(torch.ones(()))
    graded = grad_fn(state, batch)
    assert identical(list(found), [graded.grads, graded.loss, graded.weight, graded.buffers])


def test_nothing_to_train_inside_a_transform():
    """A model without trained parameters has a loss there too."""
    model = nn.Linear(4, 4).requires_grad_(False)
    state = make_step(value_and_grad(model, squared), SGD(0.1)).init_state(model)

    def inside(x):
        graded = value_and_grad(model, squared)(state, (x, x))
        return graded.loss, graded.grads

    slope, grads = torch.func.grad(inside, has_aux=True)(torch.ones(2, 4))
    assert grads == {}
    assert slope.ne(0).any()
