"""ScaleByAdam, and the transforms that report: Tap and NanToZero, down to the Metrics of a step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transforms_palette import DTYPES, U, exact
from torch_peer import draw, same_bits

from fnopt import SGD, Adam, ClipNorm, NanToZero, ScaleByAdam, Tap, chain, make_step, value_and_grad

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32)


@laws
@given(seeds, st.sampled_from([(0.9, 0.999), (0.0, 0.99), (0.5, 0.0)]), st.sampled_from([1e-8, 1e-3]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_by_adam_then_sgd_is_adam(dtype, seed, betas, eps):
    """From the same state chain(ScaleByAdam(), SGD(lr)) has Adam(lr)'s moments to the bit and its weights to rounding.

    The direction: a rounded coefficient each, a product and a quotient, 5 u of the update, and as many in Adam's; then
    the products with lr, and each sum rounds once, half an ulp of the result.
    """
    lr, u = 0.05, U[dtype]
    parts, adam = chain(ScaleByAdam(betas, eps), SGD(lr)), Adam(lr, betas, eps)
    params, grads = draw(seed, dtype, steps=10)
    state, whole = parts.init_state(params), adam.init_state(params)
    for grad in grads:
        new, state = parts.update(grad, state, params)
        other, whole = adam.update(grad, whole, params)
        for name, p in params.items():
            slack = 12 * u * (other[name] - p).abs() + 2 * 2 * u * torch.maximum(other[name].abs(), p.abs())
            assert ((new[name] - other[name]).abs() <= slack).all()
        for what in ("exp_avg", "exp_avg_sq"):
            assert all(same_bits(state["ScaleByAdam"][what][name], whole[what][name]) for name in params)
        assert int(state["ScaleByAdam"]["step"]) == int(whole["step"])
        params = new


def test_clipping_adams_direction_bounds_the_step():
    """What ScaleByAdam is for: between it and SGD, a clip bounds the step itself."""
    optimizer, (params, grads) = chain(ScaleByAdam(), ClipNorm(1.0), SGD(0.1)), draw(0, steps=20)
    state = optimizer.init_state(params)
    for grad in grads:
        new, state = optimizer.update(grad, state, params)
        length = torch.stack([(new[name] - p).double().norm() for name, p in params.items()]).norm()
        assert length == pytest.approx(0.1, rel=1e-5)  # of more than 80 entries near 1 each
        params = new


@laws
@given(seeds, st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.integers(0, 11))
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_to_zero_replaces_and_counts(dtype, seed, bad, place):
    """Every entry that is not finite becomes 0 and counts once, complex ones as a whole; all others keep their bits."""
    params, (grads, *_) = draw(seed, dtype, steps=1)
    spoiled = {name: g.clone() for name, g in grads.items()}
    spoiled["matrix"].view(-1)[place] = bad
    spoiled["scalar"].fill_(complex(1.0, bad) if dtype.is_complex else bad)
    transform = NanToZero()
    new, state = transform.transform(spoiled, transform.init_state(params), params)
    grads["matrix"].view(-1)[place] = 0.0
    assert all(same_bits(new[name], grads[name]) for name in grads if name != "scalar")
    assert new["scalar"] == 0
    assert torch.equal(state["metrics"]["zeroed"], torch.tensor(2.0))


def largest(grads, params):
    """A measure that looks at params too."""
    return max(g.abs().max() for g in grads.values()) + 0 * sum(p.sum() for p in params.values())


def test_taps_reach_the_metrics_of_a_step():
    """What transforms report is among a step's Metrics; a name that comes again is qualified by its place."""
    clip = ClipNorm(0.5)
    optimizer = chain(NanToZero(), Tap("norm"), clip, Tap("norm"), chain(Tap("largest", largest), clip), SGD(0.1))
    step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), 1)), optimizer)
    state = step.init_state({"w": torch.zeros(2)})
    for _ in range(2):
        state, metrics = step.step(state, torch.tensor([3.0, 4.0]))
        assert metrics["grad_norm"] == metrics["norm"] == 5.0
        assert metrics["norm/Tap_2"] == 0.5
        assert metrics["largest"] == torch.tensor(4.0) * 0.1
        assert (metrics["clip_coef"], metrics["clip_coef/ClipNorm_2"], metrics["zeroed"]) == (
            torch.tensor(0.1),
            1.0,
            0.0,
        )
    assert {value.ndim for value in metrics.values()} == {0}
    _, metrics = step.step(state, torch.tensor([float("inf"), 4.0]))
    assert (int(metrics["skipped"]), float(metrics["zeroed"])) == (1, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tap_changes_nothing(dtype):
    """Gradients pass a Tap with their bits, and what it measured is float32, 0-d, whatever their dtype."""
    params, (grads, *_) = draw(0, dtype, steps=1)
    tap = Tap("n")
    new, state = tap.transform(grads, tap.init_state(params), params)
    assert all(same_bits(new[name], g) for name, g in grads.items())
    norm = math.sqrt(sum(float(exact(g).abs().square().sum()) for g in grads.values()))
    assert state["metrics"]["n"].dtype == torch.float32
    assert float(state["metrics"]["n"]) == pytest.approx(norm, rel=100 * U[torch.float32])
