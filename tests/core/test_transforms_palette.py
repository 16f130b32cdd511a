"""Clips and Centralize against direct formulas in float64: 0-d, empty, strided, bfloat16 and complex leaves."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_peer import draw, same_bits

import fnopt.transforms.adaptive_clip
from fnopt import (
    AdaptiveClip,
    Centralize,
    ClipNorm,
    ClipParamNorm,
    ScaleByAdam,
)
from fnopt.errors import HyperparameterError

laws = settings(max_examples=25)
seeds = st.integers(0, 2**32)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]
U = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-24, torch.complex64: 2.0**-24}


def exact(leaf):
    """The same numbers in float64 or complex128."""
    return leaf.to(torch.complex128 if leaf.is_complex() else torch.float64)


def close(mine, expected, count, dtype):
    """Is a product with a ratio of two norms of `count` entries what it should be?

    A sum of count squares in any order is off by count u, its root by half of that, and so are two; the ratio, the
    product, the bound and its parts take 8 roundings more. bfloat16 is then rounded once: 2^-8 of itself.
    """
    slack = (count + 8) * 2 * U[dtype] + (2.0**-8 if dtype == torch.bfloat16 else 0.0)
    return bool(((exact(mine) - expected).abs() <= slack * expected.abs() + 1e-45).all())


def once(transform, grads, params):
    """The gradients after one call; the state keeps its form, and dtypes stay."""
    state = transform.init_state(params)
    new, after = transform.transform(grads, state, params)
    assert after.keys() == state.keys()
    assert [(leaf.dtype, leaf.shape) for leaf in new.values()] == [(leaf.dtype, leaf.shape) for leaf in grads.values()]
    return new


@laws
@given(seeds, st.floats(1e-3, 1e3))
@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_param_norm_scales_each_gradient_by_itself(dtype, seed, max_norm):
    """Each gradient is g max_norm / max(||g||, max_norm): its direction stays; below the bound no bit changes."""
    params, (grads, *_) = draw(seed, dtype, steps=1, decades=1)
    clipped = once(ClipParamNorm(max_norm), grads, params)
    for name, g in grads.items():
        norm = exact(g).abs().square().sum().sqrt()
        assert close(clipped[name], exact(g) * (max_norm / norm.clamp(min=max_norm)), g.numel(), dtype)
        if norm < max_norm * (1 - 1e-3):
            assert same_bits(clipped[name], g)


@laws
@given(seeds)
def test_clip_param_norm_changes_the_direction_of_the_whole(seed):
    """Where one gradient is clipped and another is not, ratios between them change, as they do not under ClipNorm."""
    params, (grads, *_) = draw(seed, torch.float64, steps=1, zeros=0.0, decades=0)
    grads = {**grads, "matrix": 100 * grads["matrix"]}

    def ratio(tensors):
        return tensors["matrix"].norm() / tensors["vector"].norm()

    bound = float(2 * grads["vector"].norm())
    assume(bound < float(grads["matrix"].norm()))
    assert ratio(once(ClipParamNorm(bound), grads, params)) < 0.9 * ratio(grads)
    assert torch.isclose(ratio(once(ClipNorm(bound), grads, params)), ratio(grads))


def adaptive(g, w, clipping, eps):
    """Equation 3 of the paper over Python numbers: unit by unit, rows of matrices and kernels, whole vectors."""
    rows = [(g[i], w[i]) for i in range(g.shape[0])] if g.ndim > 1 else [(g, w)]
    new = []
    for grad, weight in rows:
        entries = exact(grad).flatten().tolist()
        norm = math.sqrt(math.fsum(abs(x) ** 2 for x in entries))
        bound = clipping * max(math.sqrt(math.fsum(abs(x) ** 2 for x in exact(weight).flatten().tolist())), eps)
        new += [x * (bound / norm if norm > bound else 1.0) for x in entries]
    return torch.tensor(new, dtype=exact(g).dtype).reshape(g.shape)


@laws
@given(seeds, st.floats(1e-3, 10.0), st.floats(1e-4, 1.0))
@pytest.mark.parametrize("dtype", DTYPES)
def test_adaptive_clip_is_the_papers(dtype, seed, clipping, eps):
    """Each unit's gradient is at most `clipping` times the norm of its weights, or eps: a loop over units agrees."""
    params, (grads, *_) = draw(seed, dtype, steps=1, decades=1)
    params = {**params, "matrix": params["matrix"] * torch.tensor([[0.0], [1e-3], [1.0], [10.0]]).to(dtype)}
    clipped = once(AdaptiveClip(clipping, eps), grads, params)
    for name, g in grads.items():
        assert close(clipped[name], adaptive(g, params[name], clipping, eps), g.numel(), dtype), name


def test_adaptive_clip_over_whole_tensors_is_noticed(monkeypatch):
    """Negative control: with the norm of the whole in place of each unit's, the loop over units disagrees."""
    monkeypatch.setattr(fnopt.transforms.adaptive_clip, "unit_norm", lambda x: x.norm())
    with pytest.raises(AssertionError):
        test_adaptive_clip_is_the_papers.hypothesis.inner_test(torch.float32, 0, 0.01, 1e-3)


@laws
@given(seeds)
@pytest.mark.parametrize("dtype", DTYPES)
def test_centralize_takes_the_mean_of_each_unit(dtype, seed):
    """A unit's gradient loses its mean, and again does not change; vectors and scalars keep their bits.

    n u of the largest for the sum of n entries, and one for the difference; bfloat16 is then rounded once.
    """
    params, (grads, *_) = draw(seed, dtype, steps=1, decades=1)
    new = once(Centralize(), grads, params)
    again = once(Centralize(), new, params)
    for name, g in grads.items():
        if g.ndim < 2:
            assert same_bits(new[name], g)
            continue
        each = exact(g).reshape(len(g), -1)
        expected = (each - each.mean(1, keepdim=True)).reshape(g.shape)
        n = each.shape[1]
        top = each.abs().max()
        slack = (n + 2) * 2 * U[dtype] * top + (2.0**-7 * top if dtype == torch.bfloat16 else 0.0)
        assert ((exact(new[name]) - expected).abs() <= slack).all()
        assert ((again[name] - new[name]).abs() <= 2 * slack).all()
        assert not same_bits(new[name], g)


def halving(step):
    return 2.0 ** -step.double()


@pytest.mark.parametrize("halves", [ClipParamNorm(halving), AdaptiveClip(halving)])
def test_bounds_follow_a_schedule(halves):
    """A bound may be a Schedule, which reads the transform's own clock."""
    params, grads = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([300.0, 400.0])}
    state = halves.init_state(params)
    for t in range(4):
        clipped, state = halves.transform(grads, state, params)
        bound = 2.0**-t * (5 if isinstance(halves, AdaptiveClip) else 1)
        assert clipped["w"].norm() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipParamNorm(0.0), "ClipParamNorm: max_norm must be finite and > 0, got 0.0"),
        (lambda: AdaptiveClip(-1.0), "AdaptiveClip: clipping must be finite and > 0, got -1.0"),
        (lambda: AdaptiveClip(eps=0.0), "AdaptiveClip: eps must be finite and > 0, got 0.0"),
        (lambda: ScaleByAdam(betas=(1.0, 0.9)), r"ScaleByAdam: betas must be in \[0, 1\), got 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    """A bound that would stop everything, and a mean that would never move, are refused at construction."""
    with pytest.raises(HyperparameterError, match=message):
        make()
