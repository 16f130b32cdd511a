"""sam: the gradient at the worst point nearby, whatever stands inside and around it."""

import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import identical, make_batch, make_model, squared, state_of, untouched
from torch import nn

from fnopt import (
    SGD,
    AdamW,
    DynamicLossScale,
    StaticLossScale,
    TrainState,
    accumulate,
    autocast,
    evolve,
    make_step,
    sam,
    value_and_grad,
)
from fnopt.errors import HyperparameterError

laws = settings(max_examples=20)
seeds = st.integers(0, 2**31)
rhos = st.floats(1e-3, 0.5)
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
MODULE = sys.modules["fnopt.sam"]  # the name in the package is the function's


def cut(batch, sizes):
    """A batch as micro-batches of these sizes."""
    starts = itertools.accumulate(sizes, initial=0)
    return [tuple(part[start : start + size] for part in batch) for start, size in zip(starts, sizes, strict=False)]


def initial(model, grad_fn, **more):
    return make_step(grad_fn, SGD(0.1), **more).init_state(model)


def by_hand(model, batch, rho):
    """Two passes in plain torch: climb along the gradient, in place, and take it again; and what roundings scale with,
    the sum over samples of |gradient| there."""
    loss, n = squared(model, batch)
    params = list(model.parameters())
    first = torch.autograd.grad(loss / n, params)
    norm = torch.stack([g.norm() for g in first]).norm()
    with torch.no_grad():
        for p, g in zip(params, first, strict=True):
            p.add_(rho * g / norm)
    second = torch.autograd.grad(squared(model, batch)[0], params)
    samples = [torch.autograd.grad(squared(model, sample)[0], params) for sample in cut(batch, [1] * n)]
    sizes = [sum(g.abs() for g in each).max() for each in zip(*samples, strict=True)]
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, zip(second, sizes, strict=True), strict=True)), loss.detach()


def error(graded, expected):
    """The largest difference, relative to the sum of |gradient| over samples."""
    return max(float((graded.grads[name] - g).abs().max() / size) for name, (g, size) in expected.items())


@laws
@given(seeds, rhos, st.integers(1, 12))
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sam_is_two_passes_by_hand(dtype, seed, rho, n):
    """Gradients are those of a loop in plain torch, to 8 times what the order of a sum may change; so is the loss.

    8: the climb carries the error of the first gradient, times the curvature, into the second.
    """
    model, batch = make_model("mlp", seed).to(dtype), make_batch(seed, n, dtype)
    grad_fn = sam(value_and_grad(model, squared), rho)
    state = initial(model, grad_fn)
    with untouched(state):
        graded = grad_fn(state, batch)
    expected, loss = by_hand(model, batch, rho)
    assert error(graded, expected) <= 8 * TOLERANCE[dtype]
    assert graded.weight == n
    assert torch.isclose(graded.loss, loss, rtol=TOLERANCE[dtype])


def test_another_norm_is_noticed(monkeypatch):
    """Negative control: with the sum of the norms of parameters in place of the global norm, the loop disagrees."""
    monkeypatch.setattr(MODULE, "global_norm", lambda grads: sum(g.norm() for g in grads.values()))
    with pytest.raises(AssertionError):
        test_sam_is_two_passes_by_hand.hypothesis.inner_test(torch.float32, 0, 0.1, 6)


@laws
@given(seeds, rhos, st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(-10, 20))
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sam_over_accumulation_over_loss_scale_is_full_batch_sam(dtype, seed, rho, sizes, exponent):
    """However the batch is cut, and whatever the loss scale 2^k, it is the SAM of the whole: 1e-6, in float64 1e-12."""
    model, batch = make_model("mlp", seed).to(dtype), make_batch(seed, sum(sizes), dtype)
    whole = sam(value_and_grad(model, squared), rho)
    parts = sam(accumulate(value_and_grad(model, squared)), rho)
    full = whole(initial(model, whole), batch)
    cut_up = parts(initial(model, parts, loss_scale=StaticLossScale(2.0**exponent)), cut(batch, sizes))
    expected, _ = by_hand(model, batch, rho)
    sizes_of = {name: (full.grads[name], size) for name, (_, size) in expected.items()}
    assert error(cut_up, sizes_of) <= TOLERANCE[dtype]
    assert cut_up.weight == full.weight


@laws
@given(seeds, rhos, st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_accumulation_over_sam_is_sam_of_each_micro_batch(seed, rho, sizes):
    """The other way round each micro-batch climbs by itself: the sum of their SAMs to the bit, not the whole's."""
    model, batch = make_model("mlp", seed), make_batch(seed, sum(sizes))
    each, whole = sam(value_and_grad(model, squared), rho), sam(accumulate(value_and_grad(model, squared)), rho)
    state, parts = initial(model, each), cut(batch, sizes)
    total = accumulate(each)(state, parts)
    alone = [each(state, part) for part in parts]
    for name, grad in total.grads.items():
        expected = alone[0].grads[name]
        for part in alone[1:]:
            expected = expected + part.grads[name]
        assert identical(grad, expected)
    assert not any(torch.allclose(grad, total.grads[name]) for name, grad in whole(state, parts).grads.items())


@laws
@given(seeds)
@pytest.mark.parametrize("kind", ["mlp", "batch_norm", "dropout", "both", "assigning", "shared", "partial"])
def test_all_but_the_gradient_is_that_of_the_params(kind, seed):
    """Loss, weight and buffers are those of one pass at the params: BatchNorm's statistics move once."""
    model, batch = make_model(kind, seed), make_batch(seed)
    plain = value_and_grad(model, squared)
    state = initial(model, plain)
    graded, here = sam(plain)(state, batch), plain(state, batch)
    assert identical([graded.loss, graded.weight, graded.buffers], [here.loss, here.weight, here.buffers])
    assert not any(torch.equal(graded.grads[name], g) for name, g in here.grads.items() if g.ne(0).any())


@laws
@given(seeds, rhos)
def test_the_point_is_rho_away_and_uphill(seed, rho):
    """The second gradient is asked at distance rho, to 1e-5 of it, where the loss of this convex function is higher."""
    x, y = make_batch(seed, 6)
    asked = []

    def loss(params, _):
        asked.append({name: p.detach() for name, p in params.items()})
        return (x @ params["w"] + params["b"] - y).square().sum(), 1

    params = {"w": torch.zeros(4, 4), "b": torch.ones(4)}
    grad_fn = value_and_grad(loss)
    sam(grad_fn, rho)(state_of(params, SGD(0.1)), None)
    assert identical(asked[0], params)
    apart = torch.stack([(asked[1][name] - p).double().norm() for name, p in params.items()]).norm()
    assert apart == pytest.approx(rho, rel=1e-5, abs=1e-6)  # ones are met to 2^-24
    assert loss(asked[1], None)[0] > loss(params, None)[0]


def test_both_passes_draw_the_same():
    """A loss that is linear in its params has one gradient everywhere: under SAM it has the bits of one pass."""
    drop = nn.Dropout(0.5)
    grad_fn = value_and_grad(lambda params, x: ((drop(x) * params["w"]).sum(), 1))
    state, x = TrainState.of({"w": torch.ones(100)}, seed=3), torch.ones(100)
    assert identical(sam(grad_fn)(state, x).grads, grad_fn(state, x).grads)
    assert 20 < grad_fn(state, x).grads["w"].ne(0).sum() < 80


def test_a_gradient_of_zero_is_one_step_on_the_spot():
    """Where the gradient is exactly 0 there is no direction to climb in: the result is 0, and no 0/0."""
    grad_fn = sam(value_and_grad(lambda params, x: ((params["w"] * x).square().sum(), 1)))
    graded = grad_fn(TrainState.of({"w": torch.zeros(3), "b": torch.zeros(0)}), torch.ones(3))
    assert identical(graded.grads, {"w": torch.zeros(3), "b": torch.zeros(0)})


@laws
@given(seeds)
@pytest.mark.parametrize("cause", ["inf", "fp16", "second pass"])
def test_an_overflow_is_skipped(cause, seed):
    """An overflow in either pass leaves params, opt_state and `updates` with every bit, and backs off the scale."""
    model, (x, y) = make_model("mlp", seed), make_batch(seed)
    grad_fn, scale = value_and_grad(model, squared), DynamicLossScale()
    if cause == "fp16":
        grad_fn, scale = autocast(grad_fn, torch.float16), DynamicLossScale(2.0**40)
    if cause == "second pass":
        here = [p.detach().clone() for p in model.parameters()]

        def breaking(model, batch):
            away = any(not torch.equal(p, q) for p, q in zip(model.parameters(), here, strict=True))
            loss, n = squared(model, batch)
            return loss * (float("inf") if away else 1.0), n

        grad_fn = value_and_grad(model, breaking)
    step = make_step(sam(grad_fn), AdamW(0.1), loss_scale=scale)
    state = step.init_state(model)
    new, metrics = step.step(state, (x * float("inf"), y) if cause == "inf" else (x, y))
    assert int(metrics["skipped"]) == 1
    assert identical(new, evolve(state, loss_scale=new.loss_scale, position=1))
    assert new.loss_scale["scale"] == state.loss_scale["scale"] / 2


def test_what_one_pass_drops_has_no_weight():
    """A micro-batch that only the second pass must drop leaves the mean, and its weight with it."""

    def loss(params, x):
        at = params["w"] * x
        return (at + torch.where(at > 5.05, torch.inf, 0.0)).sum(), len(x)

    grad_fn = sam(accumulate(value_and_grad(loss), drop_nonfinite=True), rho=0.1)
    state, parts = TrainState.of({"w": torch.ones(())}), [torch.tensor([1.0, 2.0]), torch.tensor([5.0])]
    graded = grad_fn(state, parts)
    assert identical(graded.grads, {"w": torch.tensor(3.0)})
    assert (float(graded.weight), int(graded.dropped)) == (2.0, 1)
    assert float(graded.loss / graded.weight) == pytest.approx(8 / 3)  # the mean of all three, at the params


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_inside_and_around(dtype):
    """autocast commutes with sam, to the bit; gradients are float32 and near those without it."""
    model, batch = make_model("mlp", 0), make_batch(0)
    plain = value_and_grad(model, squared)
    state = initial(model, plain)
    inside, around = sam(autocast(plain, dtype))(state, batch), autocast(sam(plain), dtype)(state, batch)
    assert identical(inside.grads, around.grads)
    for name, grad in sam(plain)(state, batch).grads.items():
        assert inside.grads[name].dtype == torch.float32
        assert torch.allclose(inside.grads[name], grad, rtol=0.1, atol=0.1 * float(grad.abs().max()))


def test_rho_may_be_a_schedule_and_is_differentiable():
    """rho is read at `updates`; the derivative of the gradient by it is the difference quotient."""
    params, x = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}, torch.tensor([1.0, 3.0], dtype=torch.float64)
    grad_fn = value_and_grad(lambda params, x: ((params["w"] * x).pow(4).sum(), 1))
    state = evolve(TrainState.of(params), updates=torch.tensor(2))
    scheduled = sam(grad_fn, lambda step: 0.1 * step.double())(state, x)
    assert identical(scheduled.grads, sam(grad_fn, torch.tensor(0.2, dtype=torch.float64))(state, x).grads)

    def value(rho):
        return sam(grad_fn, rho)(state, x).grads["w"].sum()

    at, h = torch.tensor(0.2, dtype=torch.float64), 1e-5
    slope = (value(at + h) - value(at - h)) / (2 * h)
    assert torch.isclose(torch.func.grad(value)(at), slope, rtol=1e-6)


@pytest.mark.parametrize("rho", [0.0, -1.0, float("inf"), float("nan")])
def test_rho_out_of_range_is_refused(rho):
    """A distance that is no distance is refused at construction."""
    with pytest.raises(HyperparameterError, match="Sam: rho must be finite and > 0, got"):
        sam(value_and_grad(lambda params, x: (x, 1)), rho)
