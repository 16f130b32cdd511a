"""The laws that every exported schedule keeps, on drawn ones of each kind."""

import pickle

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_cases import FACTS, SCHEDULES, TYPICAL, ULP, at, facts, far_steps, steps, sweep
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

import fnopt
from fnopt import schedules
from fnopt.schedules import constant

every = pytest.mark.parametrize("name", SCHEDULES)
laws = settings(max_examples=12)
few = settings(max_examples=5)
data = given(st.data())


def drawn(data, name):
    return data.draw(SCHEDULES[name], label=name)


def test_the_table_has_every_exported_schedule():
    """What fnopt.schedules exports is in the table of these laws; plateau, which reads no clock, has its own file."""
    exported = {name for name in vars(schedules) if name in fnopt.__all__}
    assert set(SCHEDULES) == exported - {"plateau"}
    assert exported >= {"constant", "plateau"}


@every
@laws
@data
def test_a_value_is_one_finite_float64_number(name, data):
    """A schedule gives a finite 0-d float64 tensor that no gradient flows into, at any step that an int64 can hold."""
    value = drawn(data, name)(torch.tensor(data.draw(steps | far_steps)))
    assert (value.dtype, value.shape, value.requires_grad) == (torch.float64, (), False)
    assert value.isfinite()


@every
def test_finite_and_in_range_for_a_million_steps(name):
    """Every value of the first million steps is finite and within the range."""
    schedule = TYPICAL[name]
    curve = torch.vmap(schedule, chunk_size=2**15 - 1)(torch.arange(1_000_001))
    numbers, slack = facts(schedule).numbers(schedule), 4 * ULP * max(facts(schedule).numbers(schedule))
    assert curve.isfinite().all()
    assert min(numbers) - slack <= curve.min()
    assert curve.max() <= max(numbers) + slack


@every
@laws
@data
def test_range(name, data):
    """A value lies between the smallest and the largest number that the schedule goes through (0 for a decay)."""
    schedule, step = drawn(data, name), data.draw(steps | far_steps)
    numbers = facts(schedule).numbers(schedule)
    assert min(numbers) <= at(schedule, step) <= max(numbers)


@every
@laws
@data
def test_calling_is_pure(name, data):
    """Calling changes neither the schedule nor the step nor the generator, and twice gives the same bits."""
    schedule, step = drawn(data, name), data.draw(steps)
    before, clock, generator = pickle.loads(pickle.dumps(schedule)), torch.tensor(step), torch.get_rng_state()
    assert torch.equal(schedule(clock), schedule(clock))
    assert schedule == before
    assert clock.item() == step
    assert torch.equal(torch.get_rng_state(), generator)


@every
@few
@data
def test_random_access(name, data):
    """The value at a step does not depend on which steps were asked before it."""
    schedule, order = drawn(data, name), data.draw(st.lists(steps, min_size=1, max_size=5))
    curve = sweep(schedule, max(order))
    assert [at(schedule, step) for step in order] == [curve[step] for step in order]


@every
@laws
@data
def test_vmap_over_steps(name, data):
    """A curve made by vmap is the sweep to the bit; where a pow is vectorised, to 4 ulp of the largest value."""
    schedule = drawn(data, name)
    clock = torch.cat([torch.arange(70), torch.tensor(data.draw(st.lists(far_steps, max_size=3)), dtype=torch.int64)])
    curve, alone = torch.vmap(schedule)(clock), torch.stack([schedule(step) for step in clock])
    powers = any(kind in repr(schedule) for kind in ("StepDecay", "Polynomial", "Exponential"))
    tolerance = 4 * ULP * max(facts(schedule).numbers(schedule)) if powers else 0.0
    torch.testing.assert_close(curve, alone, rtol=0.0, atol=tolerance)


@every
@laws
@data
def test_an_int_is_a_step(name, data):
    """A Python int gives the bits of the tensor that holds it."""
    schedule, step = drawn(data, name), data.draw(steps | far_steps)
    assert torch.equal(schedule(step), schedule(torch.tensor(step)))


@every
@few
@data
def test_a_trace_on_fake_tensors_serves_every_step(name, data):
    """make_fx on fake tensors records a graph that holds at another step and at numbers changed after the trace."""
    numbers, structure = tree_flatten(tree_map(lambda x: torch.tensor(x, dtype=torch.float64), drawn(data, name)))

    def value(numbers, step):
        return tree_unflatten(numbers, structure)(step)

    graph = make_fx(value, tracing_mode="fake")(numbers, torch.tensor(data.draw(steps)))
    halved, clock = [number / 2 for number in numbers], torch.tensor(data.draw(steps))
    assert torch.equal(graph(halved, clock), value(halved, clock))


@every
@laws
@data
def test_its_ends_are_met_to_the_bit(name, data):
    """The value at step 0 and the one at the end are numbers that the schedule was made of."""
    schedule = drawn(data, name)
    known = facts(schedule)
    first, end, last = known.first(schedule), known.end(schedule), known.last(schedule)
    if first is not None:
        assert at(schedule, 0) == first
    if end is not None and last is not None:
        assert at(schedule, end) == last


@every
@laws
@data
def test_constant_after_the_end_and_before_the_beginning(name, data):
    """Before step 0 a schedule has its first value; after its last step, if it has one, it keeps its value."""
    schedule, far = drawn(data, name), data.draw(st.integers(1, 60) | far_steps)
    assert at(schedule, -far) == at(schedule, 0)
    if (end := facts(schedule).end(schedule)) is not None:
        assert at(schedule, end + far) == at(schedule, end)


@every
@laws
@data
def test_pickles_compares_and_is_its_own_hash(name, data):
    """A pickled copy equals the original, hashes like it and prints like it."""
    schedule = drawn(data, name)
    copy = pickle.loads(pickle.dumps(schedule))
    assert (copy, hash(copy), repr(copy)) == (schedule, hash(schedule), repr(schedule))


@every
@laws
@data
def test_evolve(name, data):
    """evolve gives the schedule that one would have built, and leaves the old one alone."""
    schedule = drawn(data, name)
    fields = {field.name: getattr(schedule, field.name) for field in attrs.fields(type(schedule))}
    before = repr(schedule)
    for field, value in fields.items():
        if isinstance(value, float):
            changed = fnopt.evolve(schedule, **{field: value / 2})
            assert changed == type(schedule)(**{**fields, field: value / 2})
            assert (changed == schedule) == (value == 0)
    assert fnopt.evolve(schedule) == schedule
    assert repr(schedule) == before


@every
@laws
@data
def test_a_number_may_be_a_tensor_or_a_schedule(name, data):
    """A float64 tensor, and a schedule asked at the same step, give the bits of the float in their place."""
    schedule, step = drawn(data, name), data.draw(steps)
    tensors = tree_map(lambda x: torch.tensor(x, dtype=torch.float64), schedule)
    inner = tree_map(constant, schedule)
    assert at(tensors, step) == at(inner, step) == at(schedule, step)


@every
@few
@data
def test_numbers_may_be_float32_tensors(name, data):
    """A float32 tensor is widened, not the result narrowed."""
    single = tree_map(lambda x: torch.tensor(x, dtype=torch.float32), drawn(data, name))
    double, step = tree_map(lambda x: x.double(), single), data.draw(steps)
    assert torch.equal(single(torch.tensor(step)), double(torch.tensor(step)))


@every
@laws
@data
def test_gradients_by_every_number_are_finite(name, data):
    """At no step does a gradient by a number become nan or inf, on account of a branch that was not taken or else."""
    numbers, structure = tree_flatten(tree_map(lambda x: torch.tensor(x, dtype=torch.float64), drawn(data, name)))
    step = torch.tensor(data.draw(steps))
    for gradient in torch.func.grad(lambda numbers: tree_unflatten(numbers, structure)(step))(numbers):
        assert gradient.isfinite()


@every
@few
@data
def test_values_live_on_the_device_of_the_step(name, data):
    """The numbers follow the step to its device, whichever device they are on."""
    schedule = drawn(data, name)
    for each in (schedule, tree_map(torch.tensor, schedule)):
        assert each(torch.tensor(3, device="meta")).device.type == "meta"


@every
@few
@data
def test_leaves_are_the_numbers_and_counts_are_structure(name, data):
    """tree_leaves finds every float of a schedule, in order, and no count of updates."""

    def floats(record):
        for field in attrs.fields(type(record)):
            value = getattr(record, field.name)
            for item in value if isinstance(value, tuple) else [value]:
                if isinstance(item, float):
                    yield item
                elif type(item) in FACTS:
                    yield from floats(item)

    schedule = drawn(data, name)
    leaves = tree_leaves(schedule)
    assert leaves == list(floats(schedule))
    assert all(type(leaf) is float for leaf in leaves)
