"""accumulate: any partition of a batch has the gradient of the whole; a mean of means has not."""

import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import MODELS, identical, make_batch, make_model, squared, untouched

from fnopt import (
    SGD,
    DynamicLossScale,
    TrainState,
    accumulate,
    evolve,
    make_step,
    value_and_grad,
)

laws = settings(max_examples=25)
seeds = st.integers(0, 2**31)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
MODULE = sys.modules["fnopt.accumulate"]  # the name in the package is the function's


def masked(model, batch):
    """A token loss: samples whose mask is 0 are padding, so that weights have nothing to do with sizes."""
    x, y, mask = batch
    errors = (model(x) - y).square().sum(1)
    return (errors * mask).sum(), mask.sum(), {"hits": (errors < 4).mul(mask).sum()}


def masked_batch(seed, n, dtype):
    x, y = make_batch(seed, n, dtype)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.7
    return x, y, mask.to(dtype)


def cut(batch, sizes):
    """A batch as micro-batches of these sizes."""
    starts = itertools.accumulate(sizes, initial=0)
    return [tuple(part[start : start + size] for part in batch) for start, size in zip(starts, sizes, strict=False)]


def initial(model, grad_fn, **more):
    return make_step(grad_fn, SGD(0.1), **more).init_state(model)


def partition_error(seed, sizes, dtype):
    """How far the gradient of a partition is from the whole batch's, relative to the sum of |gradient| over samples.

    That is what rounding scales with: where samples cancel, the sum alone says little. An entry adds up to 54 samples
    of products of two layers, so 1e-6 (17 roundings of float32) and 1e-12 (9,000 of float64) leave no room for a
    wrong weight and some for another order of summation.
    """
    model, batch = make_model("mlp", seed).to(dtype), masked_batch(seed, sum(sizes), dtype)
    whole = value_and_grad(model, masked)
    state = initial(model, whole)
    parts = accumulate(whole)(state, cut(batch, sizes))
    total = whole(state, batch)
    assert identical(parts.weight, total.weight)
    assert identical(parts.aux["hits"], total.aux["hits"])
    alone = [whole(state, sample).grads for sample in cut(batch, [1] * sum(sizes))]
    error = abs(parts.loss - total.loss) / total.loss.clamp(min=1)
    for name, grad in total.grads.items():
        size = sum(grads[name].abs() for grads in alone).max()
        error = max(error, (parts.grads[name] - grad).abs().max() / size.clamp(min=1e-30))
    return float(error)


TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@laws
@given(seeds, sizes)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_any_partition_has_the_gradient_of_the_whole(dtype, seed, sizes):
    """However a batch is cut, into parts however unequal, gradients and loss are the same; weight and aux exactly."""
    assert partition_error(seed, sizes, dtype) <= TOLERANCE[dtype]


def mean_of_means(a, b):
    """The usual mistake: each part divided by its own weight, then averaged."""

    def mean(graded, leaf):
        return leaf / graded.weight.clamp(min=1) * (a.weight + b.weight) / 2

    grads = {name: mean(a, leaf) + mean(b, b.grads[name]) for name, leaf in a.grads.items()}
    return evolve(MODULE_ADD(a, b), grads=grads)


MODULE_ADD = MODULE.add


def test_a_mean_of_means_breaks_the_law(monkeypatch):
    """The control: with unequal parts it is off by percents, with equal weights it is right (which hides it)."""
    monkeypatch.setattr(MODULE, "add", mean_of_means)
    for seed in range(5):
        assert partition_error(seed, [2, 7], torch.float64) > 1e-3


@laws
@given(seeds, st.integers(2, 9), st.booleans())
@pytest.mark.parametrize("kind", MODELS)
def test_one_micro_batch_is_the_batch_itself(kind, seed, n, drop):
    """A list of one has every bit of the batch alone: gradients, dropout, buffers."""
    model = make_model(kind, seed)
    grad_fn = value_and_grad(model, squared)
    state = evolve(initial(model, grad_fn), seed=seed, position=n)
    batch = make_batch(seed, n)
    assert grad_fn(state, batch) == accumulate(grad_fn, drop_nonfinite=drop)(state, [batch])
    assert identical(grad_fn(state, batch).grads, accumulate(grad_fn)(state, [batch]).grads)


def whole_numbers(params, batch):
    """A loss whose gradients are whole numbers, which add without rounding (if 1 / weight is a power of two)."""
    return (params["w"] * batch.sum(0)).sum(), len(batch), {"total": batch.sum()}


def trees(depth):
    """Lists of micro-batches, nested as deep as told."""
    if not depth:
        rows = st.sampled_from([0, 1, 2, 4])
        return st.builds(lambda n, seed: torch.randint(-9, 9, (n, 3), generator=rng(seed)).float(), rows, seeds)
    return st.lists(trees(depth - 1), min_size=1, max_size=3)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def flat(tree):
    return [leaf for item in tree for leaf in flat(item)] if isinstance(tree, list) else [tree]


@laws
@given(trees(3))
def test_accumulate_is_associative(tree):
    """A list of lists has the sum of the flat list: no nesting changes gradients, loss, weight or aux."""
    grad_fn = value_and_grad(whole_numbers)
    state = TrainState.of({"w": torch.ones(3)})
    nested = accumulate(accumulate(accumulate(grad_fn)))(state, tree)
    assert nested == accumulate(grad_fn)(state, flat(tree))
    assert nested == accumulate(grad_fn)(state, flat(tree)[::-1])


@laws
@given(seeds, st.integers(0, 99))
def test_every_micro_batch_has_its_own_randomness(seed, position):
    """Of eight micro-batches in nested lists no two draw the same, and the first draws what it draws alone."""
    seen = []

    def loss(params, batch):
        seen.append(torch.rand(4, dtype=torch.float64).tolist())
        return params["w"].sum(), 1

    state = evolve(TrainState.of({"w": torch.ones(3)}, seed=seed), position=position)
    accumulate(accumulate(accumulate(value_and_grad(loss))))(state, [[[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    value_and_grad(loss)(state, 0)
    assert seen[0] == seen.pop()
    assert len({number for numbers in seen for number in numbers}) == 32


@laws
@given(seeds, sizes, st.integers(0, 6), st.booleans())
@pytest.mark.parametrize("kind", ["mlp", "batch_norm", "assigning"])
def test_a_micro_batch_without_weight_is_neutral(kind, seed, sizes, place, poisoned):
    """All padding, or all nan (a mean over nothing): wherever it stands it changes no bit of anything."""
    model, grad_fn = make_model(kind, seed), None
    grad_fn = accumulate(value_and_grad(model, lambda model, batch: (squared(model, batch[:2])[0], batch[2].sum())))
    state = initial(model, grad_fn)
    parts = [(*make_batch(seed + i, n + 1), torch.ones(n + 1)) for i, n in enumerate(sizes)]
    x, y = make_batch(seed, 3)
    empty = (x * float("nan") if poisoned else x), y, torch.zeros(3)
    padded = [*parts[:place], empty, *parts[place:]]
    assert grad_fn(state, padded) == grad_fn(state, parts)
    assert identical(grad_fn(state, padded).buffers, grad_fn(state, parts).buffers)


@laws
@given(seeds, st.lists(st.tuples(st.integers(2, 6), st.booleans()), min_size=1, max_size=5))
@pytest.mark.parametrize("kind", ["batch_norm", "assigning"])
def test_only_the_bad_micro_batch_is_dropped(kind, seed, plan):
    """drop_nonfinite: as if the bad ones were not there, in gradients, weight, aux and buffers; they are counted."""
    model = make_model(kind, seed)
    grad_fn = value_and_grad(model, squared)
    dropping = accumulate(grad_fn, drop_nonfinite=True)
    state = initial(model, grad_fn)
    batches = [make_batch(seed + i, n) for i, (n, _) in enumerate(plan)]
    good = [batch for batch, (_, bad) in zip(batches, plan, strict=True) if not bad]
    poisoned = [(x * float("inf"), y) if bad else (x, y) for (x, y), (_, bad) in zip(batches, plan, strict=True)]
    with untouched(state, poisoned):
        kept = dropping(state, poisoned)
    assert int(kept.dropped) == len(plan) - len(good)
    if good:
        expected = evolve(accumulate(grad_fn)(state, good), dropped=kept.dropped)
        assert kept == expected
    else:
        assert kept.weight == 0
        assert identical(kept.buffers, state.buffers)
    assert all(leaf.isfinite().all() for leaf in kept.grads.values())


def test_the_step_knows_of_dropped_micro_batches():
    """The update is made from the others, the loss scale backs off, the metrics say how many; if all, it is skipped."""
    model = make_model("batch_norm", 0)
    step = make_step(
        accumulate(value_and_grad(model, squared), drop_nonfinite=True), SGD(0.1), loss_scale=DynamicLossScale()
    )
    state = step.init_state(model)
    good, bad = make_batch(0), (make_batch(1)[0] * float("nan"), make_batch(1)[1])
    new, metrics = step.step(state, [bad, good, bad])
    alone, _ = step.step(state, [good])
    assert identical(new.params, alone.params)
    assert identical(new.buffers, alone.buffers)
    assert [int(metrics[name]) for name in ("dropped", "skipped", "weight")] == [2, 0, 8]
    assert [new.loss_scale["scale"], alone.loss_scale["scale"]] == [2.0**15, 2.0**16]
    none, metrics = step.step(state, [bad, bad])
    assert [int(metrics[name]) for name in ("dropped", "skipped")] == [2, 1]
    assert identical(none.params, state.params)
    assert none.loss_scale["scale"] == 2.0**15
