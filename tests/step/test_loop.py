"""run: exact in the number of updates, and resumed to the bit from any step; evaluate: one weighted mean."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import identical, make_batch, make_model, portrait, squared, untouched
from torch import nn

from fnopt import (
    SGD,
    AdamW,
    Batches,
    ClipNorm,
    DynamicLossScale,
    accumulate,
    autocast,
    chain,
    ema,
    evaluate,
    evolve,
    make_step,
    run,
    snapshot,
    value_and_grad,
    warmup_cosine,
)
from fnopt.errors import DataExhaustedError, EmptyDataError, HyperparameterError, UsageError

laws = settings(max_examples=10)
seeds = st.integers(0, 2**31)


def dataset(n, seed=0):
    """n samples (x, y)."""
    return list(zip(*make_batch(seed, n), strict=True))


def training():
    """A run of twelve updates with accumulation, dropout, loss scale, ema, clip, schedule, shuffling and overflows."""
    model = make_model("both", 0)

    def loss(model, batch):
        total, n = squared(model, batch)
        return torch.where(batch[1][0, 0] > 0.8, float("inf"), 1.0) * total, n  # some batches overflow

    optimizer = chain(ClipNorm(0.5), ema(AdamW(warmup_cosine(peak=0.05, warmup=3, total=12)), 0.9))
    grad_fn = accumulate(autocast(value_and_grad(model, loss)))
    step = make_step(grad_fn, optimizer, loss_scale=DynamicLossScale(2.0**10, growth_interval=2))
    return step, step.init_state(model, seed=5), Batches(dataset(23), batch_size=3, micro_batches=2, seed=7)


def test_a_run_resumes_to_the_bit_from_every_step():
    """Stopped after any step, and continued from a snapshot by objects made anew, it ends with the same state.

    What was handed over meanwhile, states and metrics, is the same too; the global generator plays no part.
    """
    step, state, data = training()
    whole = [(snapshot(new), metrics) for new, metrics in run(step, state, data, updates=12)]
    skips = sum(int(metrics["skipped"]) for _, metrics in whole)
    assert 0 < skips < 12  # the drawn data has overflows
    assert len(data) == 4  # and the run several epochs
    for stop in range(len(whole)):
        torch.rand(stop)
        step, first, data = training()
        begin = first if stop == 0 else whole[stop - 1][0]
        again = list(run(step, begin, data, updates=12))
        assert len(again) == len(whole) - stop
        for (a, mine), (b, theirs) in zip(again, whole[stop:], strict=True):
            assert identical(a, b)
            assert identical(mine, theirs)


class Planned:
    """Batches of which some overflow, in a fixed order; notes where it was asked to begin."""

    def __init__(self, plan):
        self.plan, self.asked = plan, []

    def iter_from(self, position):
        self.asked.append(position)
        plan = itertools.islice(itertools.cycle(self.plan), position, None)
        return (torch.full((2,), 1.0 if good else float("inf")) for good in plan)


def counting():
    step = make_step(value_and_grad(lambda p, x: ((p["w"] * x).sum(), len(x))), SGD(0.1))
    return step, step.init_state({"w": torch.ones(2)})


@laws
@given(st.lists(st.booleans(), max_size=3), st.integers(0, 5), st.integers(0, 5))
def test_run_is_exact_in_updates(plan, first, second):
    """However many steps are skipped, `updates` are applied in all; each step is handed over; none is taken beyond."""
    plan = [*plan, True]
    step, state = counting()
    data = Planned(plan)
    seen = list(run(step, state, data, updates=first))
    state = seen[-1][0] if seen else state
    seen += run(step, state, data, updates=first + second)
    assert data.asked == [0, state.position]
    final = seen[-1][0] if seen else state
    assert int(final.updates) == first + second
    assert [new.position for new, _ in seen] == list(range(1, len(seen) + 1))
    expected = [not good for good in itertools.islice(itertools.cycle(plan), len(seen))]
    assert [bool(metrics["skipped"]) for _, metrics in seen] == expected
    assert not seen or not seen[-1][1]["skipped"]  # it ends with an update, not with what comes after
    assert list(run(step, final, data, updates=first)) == []


def test_run_draws_no_batch_too_many():
    """A source of exactly as many batches is enough; of one fewer, the error says where it ended."""
    step, state = counting()

    class Finite:
        def __init__(self, n):
            self.n = n

        def iter_from(self, position):
            return iter([torch.ones(2)] * self.n)

    assert len(list(run(step, state, Finite(3), updates=3))) == 3
    with pytest.raises(DataExhaustedError, match="ended at position 2 with 2 updates applied, expected enough for 3"):
        list(run(step, state, Finite(2), updates=3))


@pytest.mark.parametrize("updates", [-1, 2.0, True, None, "3"])
def test_a_number_of_updates_is_an_int(updates):
    """Anything else is refused when the run begins."""
    step, state = counting()
    with pytest.raises(HyperparameterError, match="run: updates must be an int >= 0, got"):
        next(run(step, state, Planned([True]), updates))


def test_run_wants_a_source_that_can_begin_anywhere():
    """A list or a DataLoader is refused with what to wrap it in."""
    step, state = counting()
    with pytest.raises(UsageError, match=r"data is a list, .*fnopt\.Batches\(dataset, batch_size=…\).*fnopt\.Stream"):
        next(run(step, state, [torch.ones(2)], updates=1))


# evaluate


def reported(model, batch):
    """A loss with a sum beside it."""
    total, n = squared(model, batch)
    return total, n, {"hits": 3 * n}


@laws
@given(seeds, st.integers(1, 20), st.integers(1, 7), st.none() | st.integers(1, 3))
@pytest.mark.parametrize("kind", ["mlp", "both", "shared", "assigning"])
def test_evaluate_is_the_mean_over_the_whole(kind, seed, n, batch_size, micro_batches):
    """However the data is cut, also into micro-batches and with a tail: the mean over all samples, by weight.

    The batches' float32 sums are added in float64, so only the kernels' order of summation differs: 1e-6 is 16
    roundings of float32, of terms that are all positive.
    """
    model = make_model(kind, seed)
    state = make_step(value_and_grad(model, reported), SGD(0.1)).init_state(model)
    data = Batches(dataset(n, seed), batch_size, micro_batches)
    got = evaluate(model, reported, state, data)
    whole = evaluate(model, reported, state, [make_batch(seed, n)])
    assert list(got) == ["loss", "weight", "hits"]
    assert got["weight"] == n
    assert got["hits"] == 3.0
    if kind != "assigning":  # its output depends on the other samples of the batch, in eval mode too
        assert abs(got["loss"] - whole["loss"]) <= 1e-6 * whole["loss"]
    model.eval()
    with torch.no_grad():
        expected = squared(model, make_batch(seed, n))[0].item() / n
    assert abs(whole["loss"] - expected) <= 1e-6 * expected


@laws
@given(seeds, st.booleans())
@pytest.mark.parametrize("kind", ["both", "assigning", "shared", "dropout"])
def test_evaluate_leaves_all_as_it_was(kind, seed, fails):
    """State, model, the mode of each part, and the generator: also if the loss raises."""
    model = make_model(kind, seed)
    if isinstance(model, nn.Sequential):
        model[1].eval()  # a part that is in eval mode during training stays so
    state = make_step(value_and_grad(model, squared), SGD(0.1)).init_state(model)

    def loss(model, batch):
        assert not any(module.training for module in model.modules())
        torch.rand(3)
        if fails:
            raise RuntimeError("out of memory, say")
        return squared(model, batch)

    before, generator = portrait(model), torch.get_rng_state()
    with untouched(state):
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                evaluate(model, loss, state, [make_batch(0)])
        else:
            first = evaluate(model, loss, state, [make_batch(0)] * 2)
            assert first == evaluate(model, loss, state, [make_batch(0)] * 2)
    assert portrait(model) == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_evaluate_uses_the_state_not_the_module():
    """The average of an ema, say, with the state's own statistics."""
    model = make_model("batch_norm", 0)
    step = make_step(value_and_grad(model, squared), ema(AdamW(0.1), 0.5))
    state, _ = step.step(step.init_state(model), make_batch(0))
    averaged = evolve(state, params=step.eval_params(state))
    losses = {
        evaluate(model, squared, each, [make_batch(1)])["loss"] for each in (state, averaged, step.init_state(model))
    }
    assert len(losses) == 3


@pytest.mark.parametrize("batches", [[], [[]], [(torch.zeros(0, 4), torch.zeros(0, 4))]])
def test_nothing_to_evaluate_is_an_error(batches):
    """An empty loader, or batches without weight, have no mean: not nan, not 0."""
    model = make_model("mlp", 0)
    state = make_step(value_and_grad(model, squared), SGD(0.1)).init_state(model)
    with pytest.raises(EmptyDataError, match=r"no batch had any weight.*is the loader empty"):
        evaluate(model, squared, state, batches)


def test_a_batch_without_weight_is_not_evaluated():
    """A mean over nothing is nan, and times its weight 0 it is still nan: it does not spoil the others."""
    model = make_model("mlp", 0)
    state = make_step(value_and_grad(model, squared), SGD(0.1)).init_state(model)

    def loss(model, batch):
        return squared(model, batch)[0] / len(batch[0]) * len(batch[0]), len(batch[0])

    empty = torch.zeros(0, 4), torch.zeros(0, 4)
    assert loss(model, empty)[0].isnan()
    assert evaluate(model, loss, state, [make_batch(0), empty]) == evaluate(model, loss, state, [make_batch(0)])
