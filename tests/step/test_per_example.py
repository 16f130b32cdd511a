"""per_example_clip: the sum of clipped gradients of single examples, however many go through the model at once."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import identical, make_batch, make_model, squared, untouched
from torch import nn

from fnopt import SGD, TrainState, accumulate, autocast, evolve, make_step, per_example_clip, sam, value_and_grad
from fnopt.errors import EmptyDataError, HyperparameterError, UsageError

laws = settings(max_examples=15)
seeds = st.integers(0, 2**31)
bounds = st.floats(0.01, 100.0)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
MODULE = sys.modules["fnopt.per_example"]


def masked(model, batch):
    """A loss whose weight has nothing to do with the number of examples: some count nothing."""
    x, y, mask = batch
    errors = (model(x) - y).square().sum(1)
    return (errors * mask).sum(), mask.sum(), {"hits": (errors < 4).mul(mask).sum()}


def masked_batch(seed, n, dtype=torch.float32):
    x, y = make_batch(seed, n, dtype)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.7
    return x, y, mask.to(dtype)


def initial(model, grad_fn):
    return make_step(grad_fn, SGD(0.1)).init_state(model)


def norm(grads):
    return torch.stack([g.double().norm() for g in grads.values()]).norm()


def one_by_one(model, batch, max_norm):
    """The gradient in plain torch, an example at a time, and the sum of |clipped| that roundings scale with."""
    names, params = zip(*model.named_parameters(), strict=True)
    total, size = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for i in range(len(batch[0])):
        grads = torch.autograd.grad(masked(model, tuple(part[i : i + 1] for part in batch))[0], params)
        coef = min(1.0, max_norm / float(norm(dict(enumerate(grads))) or 1.0))
        for name, grad in zip(names, grads, strict=True):
            total[name] = total[name] + coef * grad
            size[name] = size[name] + coef * grad.abs()
    return total, size


def agrees(grads, total, size, tolerance):
    return all(((grads[name] - g).abs() <= tolerance * (size[name].max() + 1e-30)).all() for name, g in total.items())


@laws
@given(seeds, st.integers(1, 9), bounds, st.sampled_from([None, 1, 2, 4, 100]))
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_is_the_loop_over_examples(dtype, seed, n, max_norm, chunk_size):
    """Gradients are those of a loop over single examples in plain torch, whatever the chunk_size, to rounding.

    Two layers of at most 8 products, a norm of 76 entries and a sum of 9: 100 roundings at most, 1e-5 and 1e-13.
    """
    model, batch = make_model("mlp", seed).to(dtype), masked_batch(seed, n, dtype)
    plain = value_and_grad(model, masked)
    state = initial(model, plain)
    with untouched(state, batch):
        graded = per_example_clip(plain, max_norm, chunk_size=chunk_size)(state, batch)
    assert agrees(graded.grads, *one_by_one(model, batch, max_norm), TOLERANCE[dtype])
    whole = plain(state, batch)
    assert identical([graded.weight, graded.aux, graded.buffers], [whole.weight, whole.aux, whole.buffers])
    assert torch.isclose(graded.loss, whole.loss, rtol=TOLERANCE[dtype], atol=0.0)
    assert [leaf.dtype for leaf in graded.grads.values()] == [dtype] * 4


@pytest.mark.parametrize("name", ["global_norm", "_rows"])
def test_another_bound_is_noticed(monkeypatch, name):
    """Negative control: with the largest entry for the norm, or with chunks that overlap, the loop disagrees."""
    broken = {
        "global_norm": lambda grads: torch.stack([g.abs().max() for g in grads.values()]).max(),
        "_rows": lambda batch, rows: tuple(leaf[max(0, rows.start - 1) : rows.stop] for leaf in batch),
    }
    monkeypatch.setattr(MODULE, name, broken[name])
    with pytest.raises(AssertionError):
        test_it_is_the_loop_over_examples.hypothesis.inner_test(torch.float64, 0, 5, 0.5, 2)


@laws
@given(seeds, st.integers(2, 9), bounds, st.integers(0, 8))
def test_an_example_moves_the_sum_by_the_bound_at_most(seed, n, max_norm, which):
    """What differential privacy needs: leaving one example out changes the gradient by max_norm, not by more."""
    model, batch = make_model("mlp", seed).double(), make_batch(seed, n, torch.float64)
    grad_fn = per_example_clip(value_and_grad(model, squared), max_norm)
    state, without = initial(model, grad_fn), [i for i in range(n) if i != which % n]
    every, others = grad_fn(state, batch), grad_fn(state, tuple(part[without] for part in batch))
    moved = norm({name: grad - others.grads[name] for name, grad in every.grads.items()})
    assert moved <= max_norm * (1 + 1e-12)
    alone = value_and_grad(model, squared)(state, tuple(part[[which % n]] for part in batch))
    assert moved == pytest.approx(min(max_norm, float(norm(alone.grads))), rel=1e-9)


@laws
@given(seeds, st.integers(1, 9))
@pytest.mark.parametrize("kind", ["mlp", "shared", "partial", "parametrized"])
def test_a_large_bound_changes_nothing(kind, seed, n):
    """Below the bound it is the gradient of the whole batch, to rounding, for all kinds of modules."""
    model, batch = make_model(kind, seed).double(), make_batch(seed, n, torch.float64)
    plain = value_and_grad(model, squared)
    state = initial(model, plain)
    if kind == "parametrized":
        model.eval()  # spectral norm's own iteration changes buffers in training
    graded, whole = per_example_clip(plain, 1e9)(state, batch), plain(state, batch)
    for name, grad in whole.grads.items():
        assert torch.allclose(graded.grads[name], grad, rtol=0.0, atol=1e-12 * float(1 + grad.abs().max()) * n)
    assert torch.isclose(graded.loss, whole.loss)
    assert identical(graded.buffers, state.buffers)


@laws
@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4), bounds)
def test_inside_accumulate_it_is_the_whole(seed, sizes, max_norm):
    """However a batch is cut into micro-batches, examples are clipped one by one: the sum is that of the whole."""
    model, batch = make_model("mlp", seed).double(), masked_batch(seed, sum(sizes), torch.float64)
    clipped = per_example_clip(value_and_grad(model, masked), max_norm)
    state, starts = initial(model, clipped), [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [tuple(part[a : a + size] for part in batch) for a, size in zip(starts, sizes, strict=True)]
    total = accumulate(clipped)(state, parts)
    assert agrees(total.grads, *one_by_one(model, batch, max_norm), TOLERANCE[torch.float64])
    assert identical(total.weight, clipped(state, batch).weight)


def test_a_step_trains_with_it():
    """In make_step, with accumulate and sam, examples are learnt though another is wild; unclipped they are not."""
    (x, _), model = make_batch(0, 32), make_model("mlp", 0)
    y = x.roll(1, 1)
    y[5] = 1e6
    calm = value_and_grad(model, squared)

    def loss_of_others(grad_fn):
        step = make_step(accumulate(grad_fn), SGD(0.5))
        state = step.init_state(model)
        for _ in range(30):
            state, metrics = step.step(state, [(x[:16], y[:16]), (x[16:], y[16:])])
        return calm(state, (x[8:], y[8:])).loss, metrics["grad_norm"]

    before = calm(initial(model, calm), (x[8:], y[8:])).loss
    after, length = loss_of_others(sam(per_example_clip(calm, 1.0, chunk_size=8), rho=0.01))
    assert after < 0.7 * before
    assert length <= 1.0 + 1e-5  # a mean of gradients of norm 1 at most
    assert not loss_of_others(calm)[0] < before


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_dropout_differs_between_examples(chunk_size):
    """Equal examples get masks of their own, also across chunks; the same call draws the same again."""
    drop, ones = nn.Dropout(0.5), torch.ones(7, 64)
    plain = value_and_grad(lambda params, x: ((drop(x) * params["w"]).sum(), len(x)))
    grad_fn, state = per_example_clip(plain, 1e9, chunk_size=chunk_size), TrainState.of({"w": torch.ones(64)}, seed=1)
    before = torch.get_rng_state()
    kept = grad_fn(state, ones).grads["w"] / 2
    assert identical(kept, grad_fn(state, ones).grads["w"] / 2)
    assert torch.equal(torch.get_rng_state(), before)
    # how many of 7 examples kept an entry: binomial, of variance 7/4; of equal masks, 0 or 7, 49/4; of two of 3, 13/4
    assert kept.var() == pytest.approx(7 / 4, rel=0.5)
    assert not torch.equal(kept, grad_fn(evolve(state, position=1), ones).grads["w"] / 2)


def test_chunks_that_draw_the_same_are_noticed(monkeypatch):
    """Negative control: with one seed for all chunks, as torch.vmap's own chunk_size would have it, masks repeat."""
    monkeypatch.setattr(MODULE, "mix", lambda seed, *_: seed)
    with pytest.raises(AssertionError):
        test_dropout_differs_between_examples(1)


def test_batch_norm_in_eval_mode():
    """A module with BatchNorm works in eval mode, and its statistics stay; in training it is an error, not a guess."""
    model, batch = make_model("batch_norm", 0), make_batch(0)
    grad_fn = per_example_clip(value_and_grad(model, squared), 1.0)
    state = initial(model, grad_fn)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        grad_fn(state, batch)
    model.eval()
    assert identical(grad_fn(state, batch).buffers, state.buffers)


def test_autocast_inside_and_around():
    """autocast commutes with it, to the bit; gradients are float32."""
    model, batch = make_model("mlp", 0), make_batch(0)
    plain = value_and_grad(model, squared)
    state = initial(model, plain)
    inside = per_example_clip(autocast(plain), 1.0)(state, batch)
    around = autocast(per_example_clip(plain, 1.0))(state, batch)
    assert identical(inside.grads, around.grads)
    assert {leaf.dtype for leaf in inside.grads.values()} == {torch.float32}
    assert not identical(inside.grads, per_example_clip(plain, 1.0)(state, batch).grads)


def test_the_bound_may_be_a_schedule():
    """max_norm is read at `updates`."""
    grad_fn = value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x)))
    state = evolve(TrainState.of({"w": torch.ones(())}), updates=torch.tensor(3))
    graded = per_example_clip(grad_fn, lambda step: step.double())(state, torch.tensor([2.0, 10.0, -50.0]))
    assert identical(graded.grads, {"w": torch.tensor(2.0 + 3.0 - 3.0)})


PURE = value_and_grad(lambda params, batch: ((params["w"] * batch["x"]).sum(), len(batch["x"])))


@pytest.mark.parametrize(
    ("batch", "kind", "message"),
    [
        (
            {"x": torch.ones(3), "y": torch.ones(2)},
            UsageError,
            r"shapes \[\[3\], \[2\]\], expected one first",
        ),
        ({"x": torch.ones(())}, UsageError, r"have shapes \[\[\]\], expected one first dimension"),
        ({"x": 1.0}, UsageError, r"have shapes \[\], expected one first dimension"),
        ({"x": torch.ones(0)}, EmptyDataError, "got a Batch of no examples, expected at least one"),
        ([{"x": torch.ones(2)}] * 2, UsageError, r"got a list, .* write accumulate\(per_example_clip\(grad_fn, …\)\)"),
    ],
)
def test_batches_without_examples_are_refused(batch, kind, message):
    """A batch whose tensors disagree, that has no examples, or that is a list, is an error that says so."""
    with pytest.raises(kind, match=message):
        per_example_clip(PURE, 1.0)(TrainState.of({"w": torch.ones(())}), batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: per_example_clip(PURE, 0.0), "max_norm must be finite and > 0, got 0.0"),
        *(
            (lambda n=n: per_example_clip(PURE, 1.0, chunk_size=n), "must be None or an int >= 1")
            for n in (0, True, 2.0)
        ),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    """A bound that lets nothing through, and what is no size, are refused at construction."""
    with pytest.raises(HyperparameterError, match=message):
        make()
