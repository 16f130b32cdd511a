"""Schedules equal the published formulas of others, written out; and rules read them at the step before its count."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_cases import SCHEDULES, at, counts, positive, shapes, shares, values
from test_schedules_torch import assert_equal
from torch.optim import lr_scheduler

import fnopt
from fnopt.schedules import constant, inverse_sqrt, join, polynomial, warmup_cosine, warmup_stable_decay

few = settings(max_examples=20)


@few
@given(positive, st.integers(0, 60), counts)
def test_warmup_cosine_is_hugging_faces(peak, warmup, rest):
    """warmup_cosine is get_cosine_schedule_with_warmup with half a cycle, up to the end."""

    def factor(t):
        if t < warmup:
            return t / max(1, warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (t - warmup) / max(1, rest))))

    expected = [peak * factor(t) for t in range(warmup + rest + 1)]
    assert_equal(warmup_cosine(peak, warmup, warmup + rest), expected, peak)


@few
@given(positive, st.integers(0, 30), st.integers(0, 30), counts, shares, shapes)
def test_warmup_stable_decay_is_hugging_faces(peak, warmup, stable, decay, least, shape):
    """warmup_stable_decay is get_wsd_schedule, whose min_lr_ratio is where it starts and ends."""

    def factor(t):
        if t < warmup:
            share = t / warmup
        elif t < warmup + stable:
            return 1.0
        else:
            x = min((t - warmup - stable) / decay, 1.0)
            share = {"linear": 1.0 - x, "cosine": 0.5 * (1.0 + math.cos(math.pi * x)), "sqrt": 1.0 - math.sqrt(x)}[
                shape
            ]
        return max(0.0, share * (1.0 - least) + least)

    expected = [peak * factor(t) for t in range(warmup + stable + decay + 10)]
    end = least * peak
    assert_equal(warmup_stable_decay(peak, warmup, stable, decay, start=end, end=end, shape=shape), expected, peak)


@few
@given(positive, counts)
def test_inverse_sqrt_is_fairseqs(peak, warmup):
    """inverse_sqrt is fairseq's, which multiplies by warmup^0.5 t^-0.5, and Hugging Face's."""
    expected = [peak * t / warmup if t < warmup else peak * warmup**0.5 * t**-0.5 for t in range(150)]
    assert_equal(inverse_sqrt(peak, warmup), expected, peak)
    shifted = [t / warmup if t < warmup else 1 / math.sqrt(t / warmup) for t in range(150)]
    assert_equal(inverse_sqrt(peak, warmup), [peak * factor for factor in shifted], peak)


@few
@given(st.integers(1, 2048), counts)
def test_inverse_sqrt_is_noams(width, warmup):
    """inverse_sqrt at t + 1 is equation 3 of the paper, which counts from 1, at update t."""
    peak = 1 / math.sqrt(width * warmup)
    expected = [width**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, 150)]
    assert_equal(lambda step: inverse_sqrt(peak, warmup)(step + 1), expected, peak)


@few
@given(positive, values, counts, st.floats(0.1, 5.0))
def test_polynomial_is_optaxs(start, end, count, power):
    """polynomial is polynomial_schedule, also after the end."""
    expected = [(start - end) * (1 - min(t, count) / count) ** power + end for t in range(count + 10)]
    assert_equal(polynomial(start, end, count, power), expected, max(start, end))


@few
@given(positive, values, shares, st.integers(0, 60), counts)
def test_warmup_cosine_is_optaxs(peak, start, share, warmup, rest):
    """warmup_cosine is warmup_cosine_decay_schedule, whose decay_steps count the warm-up, also after the end."""

    def rate(t):
        if t < warmup:  # polynomial_schedule of power 1
            return (start - peak) * (1 - min(max(t, 0), warmup) / warmup) + peak
        decayed = 0.5 * (1 + math.cos(math.pi * min(t - warmup, rest) / rest))  # cosine_decay_schedule
        return peak * ((1 - share) * decayed + share)

    expected = [rate(t) for t in range(warmup + rest + 20)]
    assert_equal(warmup_cosine(peak, warmup, warmup + rest, start, share * peak), expected, max(peak, start))


def train(schedule, make_scheduler, base, updates=12):
    """The parameters after each update by fnopt.AdamW with a schedule, and by torch's with its scheduler."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=generator)
    optimizer, params = fnopt.AdamW(lr=schedule), {"w": start.clone()}
    state = optimizer.init_state(params)
    theirs = torch.nn.Parameter(start.clone())
    peer = torch.optim.AdamW([theirs], lr=base, foreach=False)
    scheduler = make_scheduler(peer)
    for _ in range(updates):
        grad = torch.randn(50, generator=generator)
        params, state = optimizer.update({"w": grad}, state, params)
        theirs.grad = grad.clone()
        peer.step()
        scheduler.step()
        yield params["w"], theirs.detach()


@few
@given(st.one_of(*SCHEDULES.values()))
def test_adamw_with_the_same_rates_is_torchs_to_the_bit(schedule):
    """AdamW driven by a schedule equals torch's driven by its values, to the bit."""
    for ours, theirs in train(schedule, lambda o: lr_scheduler.LambdaLR(o, lambda t: at(schedule, t)), 1.0):
        assert torch.equal(ours, theirs)


@few
@given(st.floats(1e-3, 0.05), st.integers(1, 5), st.integers(1, 12))
def test_adamw_with_torchs_scheduler(base, warmup, rest):
    """AdamW with warmup_cosine equals torch's with SequentialLR: to float32's rounding, as rates differ by 1e-16.

    Such a rate may round a float32 coefficient (1 - lr wd, or the step size) the other way, which moves p by at most an
    ulp each: 2 eps for entries below 4, at 2 coefficients of 12 updates.
    """

    def make(optimizer):
        parts = [
            lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warmup),
            lr_scheduler.CosineAnnealingLR(optimizer, rest),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [warmup])

    schedule = warmup_cosine(base, warmup, warmup + rest, start=base * 0.01)
    tolerance = 12 * 2 * 2 * torch.finfo(torch.float32).eps
    for ours, theirs in train(schedule, make, base, updates=min(12, warmup + rest)):
        assert theirs.abs().max() < 4
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=tolerance)


def test_adamw_reads_the_step_before_it_is_incremented():
    """The first update uses schedule(0), the second schedule(1)."""
    start, grad = {"w": torch.ones(3)}, {"w": torch.full((3,), 2.0)}
    schedule = fnopt.AdamW(lr=join([constant(0.0), constant(0.5)], [1]))
    params, state = schedule.update(grad, schedule.init_state(start), start)
    assert torch.equal(params["w"], start["w"])
    second, _ = schedule.update(grad, state, params)
    by_float, _ = fnopt.AdamW(lr=0.5).update(grad, state, params)
    assert torch.equal(second["w"], by_float["w"])
    assert not torch.equal(second["w"], params["w"])


@pytest.mark.parametrize("three_phase", [False, True])
def test_adam_with_one_cycle_is_torchs(three_phase):
    """Rate and beta 1 of one cycle together train as torch's OneCycleLR does: to float32's rounding, as above."""
    shape = {"total": 20, "three_phase": three_phase}
    ours = fnopt.Adam(lr=fnopt.one_cycle(0.01, **shape), betas=(fnopt.one_cycle_momentum(**shape), 0.999))
    params = {"w": torch.linspace(-1, 1, 50)}
    state, theirs = ours.init_state(params), torch.nn.Parameter(params["w"].clone())
    peer = torch.optim.Adam([theirs], foreach=False)
    scheduler = lr_scheduler.OneCycleLR(peer, 0.01, 20, three_phase=three_phase)
    generator = torch.Generator().manual_seed(0)
    for _ in range(19):
        theirs.grad = torch.randn(50, generator=generator)
        params, state = ours.update({"w": theirs.grad.clone()}, state, params)
        peer.step()
        scheduler.step()
        torch.testing.assert_close(params["w"], theirs.detach(), rtol=0.0, atol=20 * 4 * torch.finfo(torch.float32).eps)
