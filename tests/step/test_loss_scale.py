"""Loss scales: torch's GradScaler as a pure rule; a power of two changes no bit, and an overflow leaves no trace."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import identical, make_batch, make_model, squared, untouched
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from fnopt import (
    SGD,
    AdamW,
    ClipNorm,
    DynamicLossScale,
    StaticLossScale,
    autocast,
    chain,
    ema,
    evolve,
    make_step,
    value_and_grad,
)
from fnopt.errors import HyperparameterError

laws = settings(max_examples=6)
seeds = st.integers(0, 2**31)
YES, NO = torch.tensor(True), torch.tensor(False)
factors = st.sampled_from([2.0, 1.5, 4.0, 1e20])


@settings(max_examples=150)
@given(
    st.lists(st.booleans() | st.just(True), min_size=1, max_size=40),
    st.floats(2.0**-100, 2.0**127, width=32),
    factors,
    st.sampled_from([0.5, 0.25, 0.9]),
    st.integers(1, 5),
)
def test_dynamic_is_torchs_grad_scaler(finite, init_scale, growth_factor, backoff_factor, growth_interval):
    """After every update the scale is, to the bit, that of torch.amp.GradScaler; so is the count since it last moved.

    No difference was found: both stop growing where the next scale would be infinite, and then count anew.
    """
    rule = DynamicLossScale(init_scale, growth_factor, backoff_factor, growth_interval)
    state = rule.init_state({})
    peer = torch.amp.GradScaler("cpu", init_scale, growth_factor, backoff_factor, growth_interval)
    weight = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    peer.scale(weight)  # makes its tensors
    for good in finite:
        weight.grad = torch.tensor(1.0 if good else float("inf"))
        peer.step(optimizer)
        peer.update()
        state = rule.update(state, torch.tensor(good), torch.tensor(good))
        assert state["scale"].item() == peer.get_scale()
        assert int(state["good"]) == peer.state_dict()["_growth_tracker"]


@laws
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
@pytest.mark.parametrize("rule", [StaticLossScale(8.0), DynamicLossScale(growth_interval=3)])
def test_skips_are_counted(rule, plan):
    """`skipped` counts what was not applied, for whatever reason, and `skipped_in_a_row` since the last applied one."""
    first = state = rule.init_state({"w": torch.ones(())})
    row = good = 0
    for finite, weighted in plan:
        applied = torch.tensor(finite and weighted)
        with untouched(state):
            state = rule.update(state, torch.tensor(finite), applied)
        row = 0 if applied else row + 1
        good = good + 1 if finite else 0
        assert int(state["skipped_in_a_row"]) == row
        assert int(state["good"]) == (good if isinstance(rule, StaticLossScale) else good % 3)
    assert int(state["skipped"]) == sum(not (finite and weighted) for finite, weighted in plan)
    assert [leaf.dtype for leaf in state.values()] == [leaf.dtype for leaf in first.values()]
    assert list(state) == list(first)
    if isinstance(rule, StaticLossScale):
        assert state["scale"] == 8.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StaticLossScale(0.0), "StaticLossScale: scale must be finite and > 0, got 0.0"),
        (lambda: DynamicLossScale(-1.0), "init_scale must be finite and > 0, got -1.0"),
        (lambda: DynamicLossScale(growth_factor=float("inf")), "growth_factor must be finite and > 1, got inf"),
        (lambda: DynamicLossScale(growth_factor=1.0), "growth_factor must be finite and > 1, got 1.0"),
        (lambda: DynamicLossScale(backoff_factor=1.0), r"backoff_factor must be in \(0, 1\), got 1.0"),
        (lambda: DynamicLossScale(growth_interval=0), "growth_interval must be an int >= 1, got 0"),
        (lambda: DynamicLossScale(growth_interval=True), "growth_interval must be an int >= 1, got True"),
        (lambda: DynamicLossScale(growth_interval=2.0), "growth_interval must be an int >= 1, got 2.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    """A scale that grows by less than 1 or backs off by more than 1 would never come to rest: refused at once."""
    with pytest.raises(HyperparameterError, match=message):
        make()


# The scale in a step


def several(model, scale, seed, steps=5):
    """The state after some steps without trouble."""
    optimizer = chain(ClipNorm(1.0), ema(AdamW(0.01), 0.9))
    step = make_step(value_and_grad(model, squared), optimizer, loss_scale=scale)
    state = step.init_state(model, seed=seed)
    for place in range(steps):
        state, _ = step.step(state, make_batch(seed + place, 6))
    return state


@laws
@given(seeds, st.integers(-16, 40))
@pytest.mark.parametrize("kind", ["mlp", "both", "shared"])
def test_a_power_of_two_changes_no_bit(kind, seed, exponent):
    """Five float32 steps under the scale 2^k have the bits of those under scale 1.

    Domain: nothing leaves the normal range (2^-126 … 2^128), which gradients of about 1 times 2^40 or 2^-16 do not.
    """
    model = make_model(kind, seed)
    plain, scaled = several(model, None, seed), several(model, StaticLossScale(2.0**exponent), seed)
    assert identical(evolve(scaled, loss_scale=plain.loss_scale), plain)


def overflowing(kind, seed, cause):
    """A step, its state after one good update, and a batch that overflows in it."""
    model, batch = make_model(kind, seed), make_batch(seed)
    grad_fn, scale = value_and_grad(model, squared), DynamicLossScale()
    if cause == "fp16":
        grad_fn, scale = autocast(grad_fn, torch.float16), DynamicLossScale(2.0**40)
    step = make_step(grad_fn, chain(ClipNorm(1.0), ema(AdamW(0.1), 0.9)), loss_scale=scale)
    state = step.init_state(model, seed=seed)
    good, _ = make_step(value_and_grad(model, squared), step.optimizer).step(state, batch)
    state = evolve(good, loss_scale=state.loss_scale)
    x, y = make_batch(seed + 1)
    return step, state, {"inf": (x * float("inf"), y), "nan": (x, y * float("nan")), "fp16": (x, y)}[cause]


@laws
@given(seeds)
@pytest.mark.parametrize("cause", ["inf", "nan", "fp16"])
@pytest.mark.parametrize("kind", ["batch_norm", "assigning", "both"])
def test_an_overflow_leaves_no_trace(kind, cause, seed):
    """Params, opt_state, buffers and `updates` keep every bit; the scale halves, the skip counts, position moves on."""
    step, state, batch = overflowing(kind, seed, cause)
    new, metrics = step.step(state, batch)
    moved = {"loss_scale": new.loss_scale, "position": new.position}
    assert identical(new, evolve(state, **moved))
    assert new.position == state.position + 1
    assert new.loss_scale["scale"] == state.loss_scale["scale"] / 2
    assert [int(new.loss_scale[name]) for name in ("skipped", "skipped_in_a_row", "good")] == [1, 1, 0]
    assert [int(metrics["skipped"]), metrics["loss_scale"]] == [1, state.loss_scale["scale"]]
    calm = evolve(step, grad_fn=value_and_grad(make_model(kind, seed), squared))  # float32: fp16 would overflow again
    after, metrics = calm.step(new, make_batch(seed + 2))
    expected, _ = calm.step(evolve(state, **moved), make_batch(seed + 2))
    assert int(metrics["skipped"]) == 0
    assert identical(after, expected)


def test_skipping_by_multiplication_would_let_nan_in(monkeypatch):
    """The control: new * ok + old * (1 - ok), instead of a select, spoils the state at the first overflow."""

    def multiply(condition, new, old):
        return tree_map(lambda a, b: (a * condition + b * ~condition).to(b.dtype), new, old)

    step, state, batch = overflowing("batch_norm", 0, "inf")
    monkeypatch.setattr(sys.modules["fnopt.step"], "select", multiply)
    new, _ = step.step(state, batch)
    assert any(leaf.isnan().any() for leaf in new.params.values())


def token_loss(model, batch):
    """The usual loss of a language model: a sum over 1,024 tokens."""
    x, y = batch
    logits = model(x)
    return F.cross_entropy(logits.float(), y, reduction="sum"), len(y)


def test_a_sum_over_many_tokens_does_not_overflow_fp16():
    """fp16 at scale 2^16: the backward pass sees means (scale / weight), so a sum over 1,024 tokens fits at once.

    A backward pass seeded with the scale alone is the control: it overflows.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 16, generator=generator)
    batch = x, (x @ torch.randn(16, 8, generator=generator)).argmax(1)
    grad_fn = autocast(value_and_grad(model, token_loss), torch.float16)
    step = make_step(grad_fn, SGD(0.1), loss_scale=DynamicLossScale())
    state, losses = step.init_state(model), []
    for _ in range(20):
        state, metrics = step.step(state, batch)
        losses.append(metrics["loss"].item())
        assert int(metrics["skipped"]) == 0
    assert losses[-1] < 0.9 * losses[0]
    assert state.loss_scale["scale"] == 2.0**16

    as_if_one = value_and_grad(model, lambda model, batch: (token_loss(model, batch)[0], 1))
    graded = autocast(as_if_one, torch.float16)(step.init_state(model), batch)
    assert not all(leaf.isfinite().all() for leaf in graded.grads.values())


def test_small_gradients_survive_fp16():
    """What the scale is for: a gradient of 2^-26 vanishes in fp16 at scale 1 and is exact at scale 2^16."""
    params = {"w": torch.full((4, 4), 2.0**-4)}

    def loss(params, x):
        return (x @ params["w"]).float().mul(2.0**-26).sum(), 1

    for scale, expected in ((1.0, 0.0), (2.0**16, 2.0**-26)):
        step = make_step(autocast(value_and_grad(loss), torch.float16), SGD(0.1), loss_scale=StaticLossScale(scale))
        graded = step.grad_fn(step.init_state(params), torch.eye(4))
        assert torch.equal(graded.grads["w"], torch.full((4, 4), expected))
