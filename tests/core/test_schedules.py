"""Schedules: laws on drawn schedules, then torch's schedulers and the published formulas, then errors."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import lr_scheduler
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

import fnopt
from fnopt.errors import HyperparameterError
from fnopt.schedules import constant, cosine, join, linear, multistep_decay, step_decay, warmup_cosine

ULP = torch.finfo(torch.float64).eps

values = st.floats(0.0, 10.0, allow_subnormal=False)
positive = st.floats(1e-6, 10.0)
counts = st.integers(1, 60)
milestones = st.lists(counts, min_size=1, max_size=4, unique=True).map(sorted)
steps = st.integers(0, 150)

constants = st.builds(constant, values)
linears = st.builds(linear, values, values, counts)
cosines = st.builds(cosine, values, counts, values)
step_decays = st.builds(step_decay, values, counts, st.floats(0.0, 1.0))
multistep_decays = st.builds(multistep_decay, values, milestones, st.floats(0.0, 1.0))
warmup_cosines = st.builds(lambda warmup, rest, *args: warmup_cosine(args[0], warmup, warmup + rest, *args[1:]),
                           st.integers(0, 60), counts, values, values, values)  # fmt: skip
simple = st.one_of(constants, linears, cosines, step_decays, multistep_decays, warmup_cosines)


@st.composite
def joins(draw):
    cuts = draw(milestones)
    return join([draw(simple) for _ in range(len(cuts) + 1)], cuts)


schedules = st.one_of(simple, joins())
laws = settings(deadline=None, max_examples=50)
few = settings(deadline=None, max_examples=20)


def at(schedule, step):
    return schedule(torch.tensor(step)).item()


def sweep(schedule, last):
    return [at(schedule, step) for step in range(last + 1)]


def last_step(schedule):
    """The number of updates after which a schedule other than a step decay stays as it is."""
    own = getattr(schedule, "steps", 0) or max(getattr(schedule, "milestones", (0,)))
    if isinstance(schedule, join):
        return schedule.boundaries[-1] + last_step(schedule.schedules[-1])
    return own


@laws
@given(schedules, steps)
def test_a_value_is_one_float64_number(schedule, step):
    """A schedule gives a 0-d float64 tensor that no gradient flows into."""
    value = schedule(torch.tensor(step))
    assert (value.dtype, value.shape, value.requires_grad) == (torch.float64, (), False)


@laws
@given(schedules, steps)
def test_calling_is_pure(schedule, step):
    """Calling changes neither the schedule nor the step, and twice gives the same bits."""
    before, clock = pickle.loads(pickle.dumps(schedule)), torch.tensor(step)
    assert torch.equal(schedule(clock), schedule(clock))
    assert schedule == before
    assert clock.item() == step


@laws
@given(schedules, st.lists(steps, min_size=1, max_size=5))
def test_random_access(schedule, order):
    """The value at a step does not depend on which steps were asked before it."""
    curve = sweep(schedule, max(order))
    assert [at(schedule, step) for step in order] == [curve[step] for step in order]


@laws
@given(schedules)
def test_vmap_over_steps(schedule):
    """A curve made by vmap is the sweep: to the bit, but for step_decay, whose vectorised pow may differ by one ulp."""
    clock = torch.arange(70)
    curve, alone = torch.vmap(schedule)(clock), torch.stack([schedule(step) for step in clock])
    tolerance = 2 * ULP if "StepDecay" in repr(schedule) else 0.0
    torch.testing.assert_close(curve, alone, rtol=tolerance, atol=torch.finfo(torch.float64).tiny)


@laws
@given(schedules, steps)
def test_an_int_is_a_step(schedule, step):
    """A Python int gives the bits of the tensor that holds it."""
    assert torch.equal(schedule(step), schedule(torch.tensor(step)))


@few
@given(schedules, steps, st.integers(0, 150))
def test_a_trace_on_fake_tensors_serves_every_step(schedule, traced_at, step):
    """make_fx on fake tensors records a graph that holds at another step and at numbers changed after the trace."""
    numbers, structure = tree_flatten(tree_map(lambda x: torch.tensor(x, dtype=torch.float64), schedule))

    def value(numbers, step):
        return tree_unflatten(numbers, structure)(step)

    graph = make_fx(value, tracing_mode="fake")(numbers, torch.tensor(traced_at))
    halved, clock = [number / 2 for number in numbers], torch.tensor(step)
    assert torch.equal(graph(halved, clock), value(halved, clock))


@laws
@given(st.one_of(linears, cosines))
def test_monotone_between_its_ends_which_it_meets_to_the_bit(schedule):
    """A line and a half cosine go from one end to the other without turning, and meet both exactly."""
    start = schedule.start if isinstance(schedule, linear) else schedule.peak
    curve = sweep(schedule, schedule.steps)
    assert (curve[0], curve[-1]) == (start, schedule.end)
    assert curve == sorted(curve, reverse=start > schedule.end)


@laws
@given(simple, steps)
def test_range(schedule, step):
    """A value lies between the smallest and the largest number that the schedule was made of (0 for a decay)."""
    numbers = tree_leaves(schedule)
    decays = isinstance(schedule, step_decay | multistep_decay)
    low, high = (0.0, schedule.initial) if decays else (min(numbers), max(numbers))
    assert low <= at(schedule, step) <= high


@laws
@given(st.one_of(constants, linears, cosines, multistep_decays, warmup_cosines), counts)
def test_constant_after_the_end(schedule, later):
    """After its last step a schedule keeps its value, to the bit."""
    end = last_step(schedule)
    assert at(schedule, end + later) == at(schedule, end)


@laws
@given(st.one_of(constants, linears, cosines, step_decays, multistep_decays), counts)
def test_constant_before_the_beginning(schedule, earlier):
    """Before step 0 a schedule has its first value."""
    assert at(schedule, -earlier) == at(schedule, 0)


@laws
@given(joins(), steps)
def test_join_counts_each_part_from_its_own_boundary(schedule, step):
    """join at t is its i-th part at t - b_i, to the bit, where b_i is the last boundary <= t."""
    begin, part = max((begin, i) for i, begin in enumerate((0, *schedule.boundaries)) if begin <= step)
    assert at(schedule, step) == at(schedule.schedules[part], step - begin)


@laws
@given(schedules)
def test_pickles_compares_and_is_its_own_hash(schedule):
    """A pickled copy equals the original, hashes like it and prints like it."""
    copy = pickle.loads(pickle.dumps(schedule))
    assert (copy, hash(copy), repr(copy)) == (schedule, hash(schedule), repr(schedule))


@laws
@given(linears, values, steps)
def test_evolve(schedule, end, step):
    """evolve gives the schedule that one would have built, and leaves the old one alone."""
    changed = fnopt.evolve(schedule, end=end)
    assert changed == linear(schedule.start, end, schedule.steps)
    assert (changed == schedule) == (end == schedule.end)
    assert at(changed, step) == at(linear(schedule.start, end, schedule.steps), step)


def test_leaves_are_the_numbers_and_counts_are_structure():
    """tree_leaves finds every float and no count of updates."""
    schedule = join([linear(0.1, 0.2, 3), cosine(0.3, 5, 0.4), step_decay(0.5, 7, 0.6), constant(0.7)], [3, 8, 20])
    assert tree_leaves(schedule) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert tree_leaves(multistep_decay(0.1, [3, 9], 0.5)) == [0.1, 0.5]


def test_repr():
    """A schedule prints the numbers that it was made of."""
    assert repr(constant(0.1)) == "Constant(value=0.1)"
    assert repr(warmup_cosine(peak=3e-4, warmup=100, total=2_000)) == (
        "Join(schedules=(Linear(start=0.0, end=0.0003, steps=100), Cosine(peak=0.0003, steps=1900, end=0.0)), "
        "boundaries=(100,))"
    )


@laws
@given(st.lists(values, min_size=2, max_size=5), st.integers(0, 20), counts, steps)
def test_vmap_over_peaks(peaks, warmup, rest, step):
    """Peaks batched by vmap give, member by member, the bits of a schedule with that peak."""
    members = torch.tensor(peaks, dtype=torch.float64)
    batched = torch.vmap(lambda peak: warmup_cosine(peak, warmup, warmup + rest)(torch.tensor(step)))(members)
    alone = [at(warmup_cosine(peak, warmup, warmup + rest), step) for peak in peaks]
    assert batched.tolist() == alone


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


@laws
@given(values, counts, steps)
def test_a_number_may_be_a_schedule(value, count, step):
    """A schedule in the place of a number is asked at the same step."""
    inner = linear(0.0, value, count)
    assert at(constant(inner), step) == at(inner, step)


@laws
@given(simple, steps)
def test_numbers_may_be_float32_tensors(schedule, step):
    """A float32 tensor is widened, not the result narrowed."""
    single = tree_map(lambda x: torch.tensor(x, dtype=torch.float32), schedule)
    double = tree_map(lambda x: x.double(), single)
    assert torch.equal(single(torch.tensor(step)), double(torch.tensor(step)))


def test_values_live_on_the_device_of_the_step():
    """The numbers follow the step to its device, whichever device they are on."""
    meta = torch.tensor(3, device="meta")
    numbers = [constant(0.1), constant(torch.tensor(0.1))]
    for schedule in (*numbers, warmup_cosine(torch.tensor(0.1), 2, 9), step_decay(0.1, 3), multistep_decay(0.1, [3])):
        assert schedule(meta).device == meta.device


# Peers: torch's schedulers step by step, and the formulas of others written out.


def torch_rates(make, base, updates):
    """The rates that torch's scheduler sets for updates 0, 1, …"""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler, rates = make(optimizer), []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def assert_rates(schedule, expected, peak):
    """Equal to 1e-12 of the peak: torch multiplies rate into rate, some 100 roundings of 1e-16 each."""
    torch.testing.assert_close(
        torch.tensor(sweep(schedule, len(expected) - 1)), torch.tensor(expected), rtol=0.0, atol=1e-12 * peak
    )


@few
@given(positive, st.floats(0.01, 1.0), st.floats(0.01, 1.0), counts)
def test_linear_is_torchs(base, start, end, count):
    """linear is LinearLR, whose factors are shares of the base rate."""
    expected = torch_rates(lambda o: lr_scheduler.LinearLR(o, start, end, count), base, count + 10)
    assert_rates(linear(base * start, base * end, count), expected, base)


@few
@given(positive, st.floats(0.01, 1.0), counts)
def test_constant_is_torchs(base, factor, count):
    """A constant for a while, then another, is ConstantLR."""
    expected = torch_rates(lambda o: lr_scheduler.ConstantLR(o, factor, count), base, count + 10)
    assert_rates(join([constant(base * factor), constant(base)], [count]), expected, base)


@few
@given(positive, st.floats(0.0, 1.0), counts)
def test_cosine_is_torchs(base, share, count):
    """cosine is CosineAnnealingLR up to T_max."""
    end = base * share
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, count, end), base, count + 1)
    assert_rates(cosine(base, count, end), expected, base)


@few
@given(positive, st.floats(0.0, 1.0), counts)
def test_step_decay_is_torchs(base, factor, every):
    """step_decay is StepLR."""
    assert_rates(
        step_decay(base, every, factor), torch_rates(lambda o: lr_scheduler.StepLR(o, every, factor), base, 100), base
    )


@few
@given(positive, st.floats(0.0, 1.0), milestones)
def test_multistep_decay_is_torchs(base, factor, cuts):
    """multistep_decay is MultiStepLR, to the bit: both multiply one factor after the other."""
    expected = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, cuts, factor), base, 70)
    assert sweep(multistep_decay(base, cuts, factor), 69) == expected


@few
@given(positive, st.floats(0.01, 1.0), st.floats(0.0, 1.0), counts, counts)
def test_warmup_cosine_is_torchs(base, start, share, warmup, rest):
    """warmup_cosine is SequentialLR of LinearLR and CosineAnnealingLR."""
    end = base * share

    def make(optimizer):
        parts = [
            lr_scheduler.LinearLR(optimizer, start, 1.0, warmup),
            lr_scheduler.CosineAnnealingLR(optimizer, rest, end),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [warmup])

    expected = torch_rates(make, base, warmup + rest + 1)
    assert_rates(warmup_cosine(base, warmup, warmup + rest, base * start, end), expected, base)


@few
@given(positive, st.integers(0, 60), counts)
def test_warmup_cosine_is_hugging_faces(peak, warmup, rest):
    """warmup_cosine is get_cosine_schedule_with_warmup with half a cycle, up to the end."""

    def factor(t):
        if t < warmup:
            return t / max(1, warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (t - warmup) / max(1, rest))))

    expected = [peak * factor(t) for t in range(warmup + rest + 1)]
    assert_rates(warmup_cosine(peak, warmup, warmup + rest), expected, peak)


@few
@given(positive, values, st.floats(0.0, 1.0), st.integers(0, 60), counts)
def test_warmup_cosine_is_optaxs(peak, start, share, warmup, rest):
    """warmup_cosine is warmup_cosine_decay_schedule, whose decay_steps count the warm-up, also after the end."""

    def rate(t):
        if t < warmup:  # polynomial_schedule of power 1
            return (start - peak) * (1 - min(max(t, 0), warmup) / warmup) + peak
        decayed = 0.5 * (1 + math.cos(math.pi * min(t - warmup, rest) / rest))  # cosine_decay_schedule
        return peak * ((1 - share) * decayed + share)

    expected = [rate(t) for t in range(warmup + rest + 20)]
    assert_rates(warmup_cosine(peak, warmup, warmup + rest, start, share * peak), expected, max(peak, start))


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
@given(warmup_cosines)
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


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(-0.1), r"Constant: value must be finite and >= 0, got -0\.1"),
        (lambda: constant(math.nan), r"Constant: value must be finite and >= 0, got nan"),
        (lambda: constant("0.1"), r"Constant: value must be a float, a tensor or a Schedule, got '0\.1'"),
        (lambda: constant(True), r"Constant: value must be a float, a tensor or a Schedule, got True"),
        (lambda: linear(0.0, math.inf, 3), r"Linear: end must be finite and >= 0, got inf"),
        (lambda: linear(0.0, 1.0, 0), r"Linear: steps must be an int >= 1, got 0; it is a number of updates"),
        (lambda: linear(0.0, 1.0, -3), r"Linear: steps must be an int >= 1, got -3"),
        (lambda: linear(0.0, 1.0, 1e3), r"Linear: steps must be an int >= 1, got 1000\.0"),
        (lambda: cosine(1.0, True), r"Cosine: steps must be an int >= 1, got True"),
        (lambda: cosine(1.0, torch.tensor(3)), r"Cosine: steps must be an int >= 1, got tensor\(3\)"),
        (lambda: step_decay(0.1, 0), r"StepDecay: every must be an int >= 1, got 0"),
        (lambda: step_decay(0.1, 3, -1.0), r"StepDecay: factor must be finite and >= 0, got -1\.0"),
        (lambda: step_decay(0.1, [3, 9]), r"StepDecay: every must be an int >= 1, got \[3, 9\]"),
        (lambda: multistep_decay(0.1, 30), r"MultistepDecay: milestones must be increasing ints >= 1, got 30"),
        (lambda: multistep_decay(0.1, [30, 30]), r"milestones must be increasing ints >= 1, got \(30, 30\)"),
        (lambda: multistep_decay(0.1, [0, 30]), r"milestones must be increasing ints >= 1, got \(0, 30\)"),
        (lambda: multistep_decay(0.1, [True]), r"milestones must be increasing ints >= 1, got \(True,\)"),
        (lambda: join([], []), r"Join: schedules must be a list of Schedules, got \(\)"),
        (lambda: join(constant(0.1), []), r"Join: schedules must be a list of Schedules, got Constant\(value=0\.1\)"),
        (lambda: join([constant(0.1), 0.2], [5]), r"got \(.*, 0\.2\); a number is constant\(number\)"),
        (lambda: join([constant(0.1), constant(0.2)], [5.0]), r"must be increasing ints >= 1, got \(5\.0,\)"),
        (lambda: join([constant(0.1)] * 3, [9, 5]), r"Join: boundaries must be increasing ints >= 1, got \(9, 5\)"),
        (lambda: join([constant(0.1)] * 3, [5]), r"Join: boundaries must be 2 numbers for 3 schedules, got \(5,\)"),
        (lambda: warmup_cosine(1.0, 10, 10), r"0 <= warmup < total, got warmup=10, total=10; both are"),
        (lambda: warmup_cosine(1.0, -1, 10), r"0 <= warmup < total, got warmup=-1, total=10"),
        (lambda: warmup_cosine(1.0, True, 10), r"0 <= warmup < total, got warmup=True, total=10"),
        (lambda: warmup_cosine(1.0, 1, 1e4), r"0 <= warmup < total, got warmup=1, total=10000\.0"),
        (lambda: warmup_cosine(-1.0, 1, 10), r"Cosine: peak must be finite and >= 0, got -1\.0"),
        (lambda: warmup_cosine(torch.ones(4), 1, 10)(0), r"a hyperparameter has shape \[4\], expected a scalar"),
    ],
)  # fmt: skip
def test_errors_say_what_was_got_and_what_was_expected(make, message):
    """Bad input is a HyperparameterError that names the schedule, the argument, and what it must be."""
    with pytest.raises(HyperparameterError, match=message):
        make()
