"""What is true of one kind of schedule: its turns, its boundaries, its parts; and what a bare name must refuse."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedule_cases import SCHEDULES, ULP, anneals, at, counts, shapes, steps, sweep, values
from torch.utils._pytree import tree_leaves

import fnopt
from fnopt.schedules import (
    constant,
    cosine,
    cosine_restarts,
    cycles,
    exponential,
    inverse_sqrt,
    join,
    linear,
    multistep_decay,
    one_cycle,
    one_cycle_momentum,
    polynomial,
    step_decay,
    warmup_cosine,
    warmup_stable_decay,
)

laws = settings(max_examples=25)


@laws
@given(st.one_of(SCHEDULES["linear"], SCHEDULES["cosine"], SCHEDULES["polynomial"]))
def test_monotone_between_its_ends(schedule):
    """A line, half a cosine and a power go from one end to the other without turning."""
    curve = sweep(schedule, schedule.steps)
    assert curve == sorted(curve, reverse=curve[0] > curve[-1])


@laws
@given(values, values, counts, steps)
def test_polynomial_of_power_one_is_linear(start, end, count, step):
    """With power 1 polynomial is linear, but for rounding."""
    line = at(linear(start, end, count), step)
    assert at(polynomial(start, end, count), step) == pytest.approx(line, rel=0, abs=4 * ULP * max(start, end))


@laws
@given(values, st.floats(0.5, 1.0), steps, steps)
def test_exponential_is_a_homomorphism(initial, gamma, s, t):
    """exponential after s + t updates is exponential that began at its value after s, after t."""
    later = exponential(at(exponential(initial, gamma), s), gamma)
    assert at(later, t) == pytest.approx(at(exponential(initial, gamma), s + t), rel=8 * ULP, abs=1e-300)


@laws
@given(values, counts, st.integers(1, 1000))
def test_inverse_sqrt_halves_at_four_times_the_step(peak, warmup, beyond):
    """inverse_sqrt meets its peak at the end of the warm-up, and from there on halves whenever the step is fourfold."""
    schedule = inverse_sqrt(peak, warmup)
    assert at(schedule, warmup) == peak
    half = at(schedule, warmup + beyond) / 2
    assert at(schedule, 4 * (warmup + beyond)) == pytest.approx(half, rel=4 * ULP)


@laws
@given(SCHEDULES["join"], steps)
def test_join_counts_each_part_from_its_own_boundary(schedule, step):
    """join at t is its i-th part at t - b_i, to the bit, where b_i is the last boundary <= t."""
    begin, part = max((begin, i) for i, begin in enumerate((0, *schedule.boundaries)) if begin <= step)
    assert at(schedule, step) == at(schedule.schedules[part], step - begin)


@laws
@given(values, counts, counts, counts, values, values, shapes)
def test_warmup_stable_decay_is_a_join(peak, warmup, stable, decay, start, end, shape):
    """It is a line, a constant and a decay, one after the other, and before the decay knows nothing of it."""
    schedule = warmup_stable_decay(peak, warmup, stable, decay, start=start, end=end, shape=shape)
    parts, boundaries = schedule.schedules, schedule.boundaries
    assert parts[:2] == (linear(start, peak, warmup), constant(peak))
    assert boundaries == (warmup, warmup + stable)
    assert (at(parts[2], 0), at(parts[2], decay)) == (peak, end)
    longer = warmup_stable_decay(peak, warmup, stable + 50, 2 * decay, start=start, shape=shape)
    assert sweep(schedule, warmup + stable) == sweep(longer, warmup + stable)


def test_warmup_stable_decay_leaves_out_what_has_no_updates():
    """Without a warm-up it begins at its peak, without a stable part it falls at once."""
    assert warmup_stable_decay(1.0, 0, 0, 5) == join([linear(1.0, 0.0, 5)], [])
    assert warmup_stable_decay(1.0, 0, 3, 5, shape="cosine") == join([constant(1.0), cosine(1.0, 5)], [3])
    assert warmup_stable_decay(1.0, 2, 0, 5) == join([linear(0.0, 1.0, 2), linear(1.0, 0.0, 5)], [2])


@laws
@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), anneals)
def test_one_cycle_turns_at_its_peak(rise, fall, three_phase, anneal):
    """Up to the peak, which is met to the bit where `up` is whole, then down; the momentum goes the other way."""
    total = rise + fall * (1 + three_phase) + 1 + rise * three_phase
    shape = {"total": total, "warmup": (rise + 1) / total, "three_phase": three_phase, "anneal": anneal}
    assume(shape["warmup"] * total - 1 == rise)  # where the share is rounded, the corner lies beside the step
    rates, momenta = sweep(one_cycle(1.0, **shape), total), sweep(one_cycle_momentum(**shape), total)
    assert (rates[0], rates[rise]) == (1 / 25, 1.0)
    assert (momenta[0], momenta[rise], momenta[-1]) == (0.95, 0.85, 0.95)
    assert rates[: rise + 1] == sorted(rates[: rise + 1])
    assert rates[rise:] == sorted(rates[rise:], reverse=True)
    assert momenta[rise:] == sorted(momenta[rise:])
    if three_phase:
        assert (rates[2 * rise], momenta[2 * rise]) == (1 / 25, 0.95)


def test_one_cycle_whose_warmup_is_one_update_begins_at_its_peak():
    """Where torch divides 0 by 0 (its warm-up ends at step 0), step 0 has the peak, and gradients are finite."""
    assert at(one_cycle(1.0, 10, warmup=0.1), 0) == 1.0
    warmup = torch.tensor(0.1, dtype=torch.float64)
    assert torch.func.grad(lambda w: one_cycle(1.0, 10, warmup=w)(torch.tensor(0)))(warmup).isfinite()


def starts(period, multiply, below):
    """Where the periods of cosine_restarts begin, by adding up."""
    begin, length = 0, period
    while begin < below:
        yield begin, length
        begin, length = begin + length, length * multiply


@laws
@given(counts, st.integers(1, 12))
def test_restarts_are_exact_at_every_boundary(period, multiply):
    """At each boundary below 2^62 a period begins, one step before it the one before is at its last step."""
    boundaries = list(starts(period, multiply, 2**62 if multiply > 1 else 100 * period))
    for (begin, length), (following, _) in itertools.pairwise(boundaries):
        for step in (begin, begin + length // 3, following - 1):
            found, long = cycles.period_of(torch.tensor(step), period, multiply)
            assert found.item() == begin
            assert long.item() == pytest.approx(length, rel=2 * ULP)  # beyond 2^53 it is rounded to a float


@laws
@given(st.one_of(counts, st.integers(1, 2**62)), st.integers(2, 2**62))
def test_as_many_restarts_as_int64_holds(period, multiply):
    """The beginning of each period, and its length in first periods, are int64; of the next period one is not."""
    count = cycles.restarts(period, multiply)
    begins = [period * ((multiply**place - 1) // (multiply - 1)) for place in (count - 1, count)]
    assert max(begins[0], multiply ** (count - 1)) < 2**63 <= max(begins[1], multiply**count)


def test_restarts_are_exact_where_logarithms_are_not():
    """torch's own step(121) is a period late, at its lowest value: log(243, 3) is 4.999…; step by step it is not."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 1, 3).step(121)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert at(cosine_restarts(1.0, 1, 3), 121) == 1.0


def test_repr():
    """A schedule prints the numbers that it was made of."""
    assert repr(constant(0.1)) == "Constant(value=0.1)"
    assert repr(cosine_restarts(1, 10)) == "CosineRestarts(peak=1.0, period=10, multiply=1, end=0.0)"
    assert repr(warmup_cosine(peak=3e-4, warmup=100, total=2_000)) == (
        "Join(schedules=(Linear(start=0.0, end=0.0003, steps=100), Cosine(peak=0.0003, steps=1900, end=0.0)), "
        "boundaries=(100,))"
    )


def test_leaves_in_order():
    """The numbers of each kind, as a compiled step takes them for inputs."""
    schedule = join([linear(0.1, 0.2, 3), cosine(0.3, 5, 0.4), step_decay(0.5, 7, 0.6), constant(0.7)], [3, 8, 20])
    assert tree_leaves(schedule) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert tree_leaves(multistep_decay(0.1, [3, 9], 0.5)) == [0.1, 0.5]
    assert tree_leaves(one_cycle(0.1, 9)) == [0.1, 0.3, 25.0, 1e4]
    assert tree_leaves(cosine_restarts(0.1, 9, 2, 0.01)) == [0.1, 0.01]


@laws
@given(st.lists(values, min_size=2, max_size=5), st.integers(0, 20), counts, steps)
def test_vmap_over_peaks(peaks, warmup, rest, step):
    """Peaks batched by vmap give, member by member, the bits of a schedule with that peak."""
    members = torch.tensor(peaks, dtype=torch.float64)
    for make in (lambda peak: warmup_cosine(peak, warmup, warmup + rest), lambda peak: cosine_restarts(peak, rest, 2)):
        batched = torch.vmap(lambda peak: make(peak)(torch.tensor(step)))(members)
        assert batched.tolist() == [at(make(peak), step) for peak in peaks]


@laws
@given(values, values, st.integers(0, 20), counts, steps)
def test_gradient_by_peak(peak, end, warmup, rest, step):
    """The value is linear in the peak, so its gradient by a tensor peak is value(1, end) - value(0, end)."""

    def value(peak):
        return warmup_cosine(peak, warmup, warmup + rest, 0.0, end)(torch.tensor(step))

    gradient = torch.func.grad(value)(torch.tensor(peak, dtype=torch.float64))
    assert gradient.item() == pytest.approx((value(1.0) - value(0.0)).item(), abs=8 * ULP * max(1.0, end))


def test_no_gradient_leaks_out_of_the_part_that_is_not_asked():
    """A part whose formula is infinite outside of its own steps leaves value and gradient of the others finite."""

    for step in (0, 7, 8, 100):

        def value(scale, step=step):
            return join([lambda t: scale / (8 - t), lambda t: scale * (t + 1) ** -0.5], [8])(torch.tensor(step))

        gradient, result = torch.func.grad_and_value(value)(torch.tensor(1.0, dtype=torch.float64))
        assert (gradient.item(), result.item()) == pytest.approx(
            [(8 - step) ** -1 if step < 8 else (step - 7) ** -0.5] * 2
        )


def test_a_growing_exponential_is_not_refused():
    """gamma > 1 is a search for a good rate."""
    assert at(exponential(1e-6, 2.0), 10) == 1024e-6
    assert math.isinf(at(exponential(1.0, 2.0), 2_000))


def test_validators_see_changes():
    """evolve refuses what construction refuses."""
    with pytest.raises(fnopt.FnoptError, match="period must be an int >= 1"):
        fnopt.evolve(cosine_restarts(1.0, 3), period=0)
