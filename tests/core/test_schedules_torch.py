"""Schedules equal torch's schedulers, step by step, and the published formulas of others; broken ones do not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from schedule_cases import anneals, at, counts, factors, milestones, positive, shares, sweep
from torch.optim import lr_scheduler

from fnopt import schedules
from fnopt.schedules import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    join,
    linear,
    multistep_decay,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    step_decay,
    warmup_cosine,
)

few = settings(max_examples=20)


class Peer(NamedTuple):
    """A schedule, and the scheduler of torch that should give the same values."""

    schedule: Any
    scheduler: Callable[[torch.optim.Optimizer], Any]
    base: float  # the optimizer's rate before the scheduler came
    updates: int
    key: str = "lr"


def assert_equal(schedule: Any, expected: list[float], peak: float) -> None:
    """Equal to 1e-12 of the peak: torch multiplies rate into rate, some 100 roundings of 1e-16 each."""
    got = torch.tensor(sweep(schedule, len(expected) - 1), dtype=torch.float64)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0.0, atol=1e-12 * peak)


def compare(peer: Peer) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peer.base, momentum=0.9)
    scheduler = peer.scheduler(optimizer)
    expected = [optimizer.param_groups[0][peer.key]]
    for _ in range(peer.updates - 1):
        optimizer.step()
        scheduler.step()
        expected.append(optimizer.param_groups[0][peer.key])
    assert_equal(peer.schedule, expected, peer.base if peer.key == "lr" else 1.0)


@st.composite
def linears(draw):
    base, start, end, n = draw(positive), draw(st.floats(0.01, 1.0)), draw(st.floats(0.01, 1.0)), draw(counts)
    return Peer(linear(base * start, base * end, n), lambda o: lr_scheduler.LinearLR(o, start, end, n), base, n + 10)


@st.composite
def constants(draw):
    base, share, n = draw(positive), draw(st.floats(0.01, 1.0)), draw(counts)
    schedule = join([constant(base * share), constant(base)], [n])
    return Peer(schedule, lambda o: lr_scheduler.ConstantLR(o, share, n), base, n + 10)


@st.composite
def cosines(draw):
    base, n = draw(positive), draw(counts)
    end = base * draw(shares)
    return Peer(cosine(base, n, end), lambda o: lr_scheduler.CosineAnnealingLR(o, n, end), base, n + 1)


@st.composite
def polynomials(draw):
    base, n, power = draw(positive), draw(counts), draw(st.floats(0.1, 5.0))
    return Peer(polynomial(base, 0.0, n, power), lambda o: lr_scheduler.PolynomialLR(o, n, power), base, n + 10)


@st.composite
def exponentials(draw):
    base, gamma = draw(positive), draw(shares)
    return Peer(exponential(base, gamma), lambda o: lr_scheduler.ExponentialLR(o, gamma), base, 100)


@st.composite
def step_decays(draw):
    base, every, factor = draw(positive), draw(counts), draw(shares)
    return Peer(step_decay(base, every, factor), lambda o: lr_scheduler.StepLR(o, every, factor), base, 100)


@st.composite
def multistep_decays(draw):
    base, cuts, factor = draw(positive), draw(milestones), draw(shares)
    return Peer(multistep_decay(base, cuts, factor), lambda o: lr_scheduler.MultiStepLR(o, cuts, factor), base, 70)


@st.composite
def warmup_cosines(draw):
    base, start, warmup, rest = draw(positive), draw(st.floats(0.01, 1.0)), draw(counts), draw(counts)
    end = base * draw(shares)

    def make(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, start, 1.0, warmup)
        return lr_scheduler.SequentialLR(
            optimizer, [rise, lr_scheduler.CosineAnnealingLR(optimizer, rest, end)], [warmup]
        )

    return Peer(warmup_cosine(base, warmup, warmup + rest, base * start, end), make, base, warmup + rest + 1)


@st.composite
def one_cycles(draw, key):
    peak, n, share, three_phase, anneal = draw(positive), draw(counts), draw(shares), draw(st.booleans()), draw(anneals)
    low, high, div, final = draw(shares), draw(shares), draw(factors), draw(factors)
    assume(share * n != 1)  # torch divides by 0
    low, high = low * 0.99, high * 0.99

    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer, peak, n, pct_start=share, anneal_strategy=anneal, base_momentum=low, max_momentum=high,
            div_factor=div, final_div_factor=final, three_phase=three_phase,
        )  # fmt: skip

    rate = one_cycle(peak, n, share, div, final, three_phase, anneal)
    momentum = one_cycle_momentum(n, low, high, share, three_phase, anneal)
    return Peer(rate if key == "lr" else momentum, make, peak, n, key)


@st.composite
def restarts(draw):
    base, period, multiply = draw(positive), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    end = base * draw(shares)

    def make(optimizer):
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, period, multiply, end)

    return Peer(cosine_restarts(base, period, multiply, end), make, base, 150)


PEERS = {
    "LinearLR": linears(),
    "ConstantLR": constants(),
    "CosineAnnealingLR": cosines(),
    "PolynomialLR": polynomials(),
    "ExponentialLR": exponentials(),
    "StepLR": step_decays(),
    "MultiStepLR": multistep_decays(),
    "SequentialLR": warmup_cosines(),
    "OneCycleLR": one_cycles("lr"),
    "OneCycleLR, its momentum": one_cycles("momentum"),
    "CosineAnnealingWarmRestarts": restarts(),
}


@pytest.mark.parametrize("name", PEERS)
@few
@given(st.data())
def test_equals_torchs(name, data):
    """Each schedule gives the values of torch's scheduler at every step."""
    compare(data.draw(PEERS[name]))


def fails(name: str) -> bool:
    """Does the comparison with torch find a difference?"""

    @settings(max_examples=50, phases=[Phase.generate])
    @given(PEERS[name])
    def compared(peer):
        compare(peer)

    try:
        compared()
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", PEERS)
def test_a_clock_that_is_one_off_is_found(name, monkeypatch):
    """Negative control: schedules that read the step after it was incremented differ from torch's."""
    right = schedules.clock.values_at
    for room in (schedules.shapes, schedules.steps, schedules.warmups, schedules.cycles, schedules.joins):
        monkeypatch.setattr(room, "values_at", lambda step, *hypers: right(step + 1, *hypers))
    assert fails(name)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_restart_that_is_one_off_is_found(shift, monkeypatch):
    """Negative control: periods that begin one step too early or too late differ from torch's."""
    right = schedules.cycles.period_of

    def broken(step, period, multiply):
        begin, length = right((step + shift).clamp(min=0), period, multiply)
        return torch.minimum(begin, step), length

    monkeypatch.setattr(schedules.cycles, "period_of", broken)
    assert fails("CosineAnnealingWarmRestarts")


def test_a_corner_that_is_one_off_is_found(monkeypatch):
    """Negative control: a cycle whose corners are at warmup total differs from torch's, where one is taken off."""
    right = schedules.cycles.cycle
    monkeypatch.setattr(
        schedules.cycles, "cycle", lambda t, total, warmup, *rest: right(t, total, warmup + 1 / total, *rest)
    )
    assert fails("OneCycleLR")
    assert fails("OneCycleLR, its momentum")


@few
@given(positive, shares, milestones)
def test_multistep_decay_is_torchs_to_the_bit(base, factor, cuts):
    """Both multiply one factor after the other."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = lr_scheduler.MultiStepLR(optimizer, cuts, factor)
    for step in range(70):
        assert at(multistep_decay(base, cuts, factor), step) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
