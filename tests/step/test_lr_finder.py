"""lr_finder: it leaves no trace, its rates are those that the updates are made with, and it stops where it should."""

import random
import re
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from compile_cases import composed, quadratic
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import MODELS, ended, identical, make_batch, make_model, nonfinite_loss, portrait, squared, untouched

import fnopt
from fnopt import SGD, AdamW, Batches, FnoptError, LRSweep, Muon, Stream, make_step, partition, value_and_grad

module = sys.modules["fnopt.lr_finder"]  # the function has its name


class Noisy(torch.utils.data.Dataset):
    """Samples that draw from the global generators of torch, Python and numpy."""

    def __init__(self):
        self.x, self.y = make_batch(0, 16)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        noise = torch.rand(()) + random.random() + np.random.rand()
        return self.x[index] + 0.01 * noise.float(), self.y[index]


class Endless:
    """The same few items over and over."""

    def __init__(self, *items):
        self.items = items

    def iter_from(self, position):
        while True:
            yield self.items[position % len(self.items)]
            position += 1


def advanced(step, state, data, updates):
    """The state after some updates."""
    return ended(fnopt.run(step, state, data, updates))


def generators():
    """Where the global generators are."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


@contextmanager
def no_trace(model, state, data):
    """The block changes no bit of state, module, generators, and no item of data."""
    before = portrait(model), generators(), repr(data)
    with untouched(state):
        yield
    assert (portrait(model), generators(), repr(data)) == before


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_a_sweep_leaves_no_trace(kind, training):
    """State, module with its buffers and mode, generators and data are as before; the run goes on to the same bits."""
    model = make_model(kind, 0).train(training)
    step, data = composed(model), Batches(Noisy(), batch_size=4, seed_samples=False)
    torch.manual_seed(1)
    state = advanced(step, step.init_state(model, seed=3), data, 2)
    with no_trace(model, state, data):
        sweep = fnopt.lr_finder(step, state, data, updates=12)
    assert len(sweep.lrs) > 1
    rest = []
    for swept in (True, False):
        torch.manual_seed(2)
        random.seed(2)
        np.random.seed(2)
        if swept:
            fnopt.lr_finder(step, state, data, updates=3)
        rest.append(advanced(step, state, data, 5))
    assert identical(*rest)


@pytest.mark.parametrize("guards", [("seeded", "borrowed_generators"), ("borrowed_generators",)])
def test_without_its_guards_a_sweep_leaves_a_trace(guards, monkeypatch):
    """Negative control: without what gives the generators back, the law of no trace fails."""
    model = make_model("mlp", 0)
    step, data = composed(model), Batches(Noisy(), batch_size=4, seed_samples=False)
    for guard in guards:
        monkeypatch.setattr(module, guard, lambda *_: nullcontext())
    state = step.init_state(model)
    with pytest.raises(AssertionError), no_trace(model, state, data):
        fnopt.lr_finder(step, state, data, updates=3)


def test_a_compiled_step_is_swept_without_a_trace(monkeypatch):
    """The state is not donated, `last_state` stays, losses are those of eager; and without the copy it is donated."""
    eager = make_step(value_and_grad(quadratic), AdamW(lr=0.1))
    step, data = fnopt.compiled(eager), Batches(torch.randn(24, generator=torch.Generator().manual_seed(0)), 6)
    state = step.init_state({"w": torch.linspace(-1, 1, 6), "v": torch.ones(2, 2)}, seed=5)
    state = advanced(step, state, data, 3)
    last, programs = step.last_state, step.stats.compiles
    with untouched(fnopt.snapshot(state)):
        sweep = fnopt.lr_finder(step, state, data, updates=20)
    assert step.last_state is last is state
    assert (step.stats.mode, step.stats.compiles) == ("compiled", programs)
    wanted = fnopt.lr_finder(eager, fnopt.snapshot(state), data, updates=20)
    assert sweep.losses == pytest.approx(wanted.losses, rel=1e-4)
    monkeypatch.setattr(module, "snapshot", lambda state: state)
    fnopt.lr_finder(step, state, data, updates=3)
    with pytest.raises(fnopt.DonatedStateError):
        _ = state.params


def test_the_losses_are_those_of_updates_at_these_rates():
    """Each loss is, to the bit, that of a loop which sets the rate by hand; so the lr of the optimizer counts for
    nothing.
    """
    model = make_model("mlp", 0)
    data = Batches(list(zip(*make_batch(0, 16), strict=True)), batch_size=4)
    grad_fn = value_and_grad(model, squared)
    for lr in (1e-3, fnopt.warmup_cosine(peak=1.0, warmup=3, total=9)):
        step = make_step(grad_fn, SGD(lr, momentum=0.9))
        state = step.init_state(model)
        sweep = fnopt.lr_finder(step, state, data, lowest=1e-4, highest=0.1, updates=10)
        assert (sweep.lrs[0], sweep.lrs[-1], sweep.diverged) == (1e-4, pytest.approx(0.1), False)
        for rate, loss, batch in zip(sweep.lrs, sweep.losses, data.iter_from(0), strict=False):
            state, metrics = make_step(grad_fn, SGD(rate, momentum=0.9)).step(state, batch)
            assert metrics["loss"].item() == loss


@settings(max_examples=12)
@given(st.integers(-8, 8), st.integers(0, 99))
def test_a_loss_of_twice_the_size_has_half_the_rates(power, seed):
    """SGD on 2^k times the loss at 2^-k times the rates has 2^-k times the suggestion, and the same bits."""
    factor = 2.0**power
    data = Batches(torch.randn(8, generator=torch.Generator().manual_seed(seed)), batch_size=4)

    def sweep(factor):
        grad_fn = value_and_grad(lambda params, x: (factor * (params["w"] - x).square().sum(), len(x)))
        step = make_step(grad_fn, SGD())
        state = step.init_state({"w": torch.full((), 3.0)})
        return fnopt.lr_finder(step, state, data, lowest=2.0**-10 / factor, highest=2.0**6 / factor, updates=17)

    plain, scaled = sweep(1.0), sweep(factor)
    assert [loss * factor for loss in plain.losses] == list(scaled.losses)
    assert plain.suggestion is not None
    assert plain.suggestion / factor == scaled.suggestion


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_it_stops_at_divergence_and_suggests_a_rate_below(curvature):
    """On a quadratic, SGD grows above 2 / curvature: the suggestion is below, the sweep ends above, before its end."""
    step = make_step(value_and_grad(lambda params, x: (curvature * (params["w"] - x).square() / 2, 1)), SGD())
    state, data = step.init_state({"w": torch.full((), 9.0)}), Endless(torch.tensor(1.0), torch.tensor(-1.0))
    sweep = fnopt.lr_finder(step, state, data, lowest=1e-5, highest=1e4)
    assert sweep.diverged
    assert sweep.suggestion < 2 / curvature < sweep.lrs[-1] < 1e4
    assert len(sweep.lrs) == len(sweep.losses) == len(sweep.smoothed) < 100
    assert sweep.losses[-1] > sweep.losses[0]


def test_a_negative_loss_does_not_end_a_sweep():
    """A loss that falls below 0 has not diverged; and a loss that only rises has no suggestion."""
    for sign, suggested in ((-1, True), (1, False)):
        step = make_step(value_and_grad(lambda params, x: (params["w"] * 0 + sign * x.sum(), 1)), SGD())
        data = Endless(*(torch.full((1,), 5.0 + place / 100) for place in range(40)))
        sweep = fnopt.lr_finder(step, step.init_state({"w": torch.ones(())}), data, updates=40)
        assert not sweep.diverged
        assert (sweep.suggestion is not None) is suggested


WARMUP = fnopt.warmup_cosine(peak=0.02, warmup=4, total=100)


@pytest.mark.parametrize(
    "lrs", [(0.02, 0.005, 0.0), (WARMUP, fnopt.warmup_cosine(peak=0.005, warmup=4, total=100), 0.0)]
)
def test_parts_of_an_optimizer_keep_the_ratio_of_their_rates(lrs):
    """A rate of the second part is to that of the first as before, also in a warm-up from 0; 0 stays 0."""
    parts = {name: SGD(lr) for name, lr in zip("abc", lrs, strict=True)}
    optimizer = fnopt.chain(fnopt.ClipNorm(1.0), fnopt.ema(partition(parts, {name: name for name in "abc"})))
    step = make_step(value_and_grad(_linear), optimizer)
    relative = module._relative(optimizer, step.init_state({name: torch.ones(()) for name in "abc"}))
    assert [rule.lr for _, rule, _ in module.leaf_rules(relative, ())] == [1.0, pytest.approx(0.25), 0.0]


def _linear(params, x):
    return sum(leaf.sum() for leaf in params.values()) * x.sum(), 1


def test_muon_and_adamw_are_swept_together():
    """The partition of Muon and AdamW, each under its label, learns in a sweep."""
    model = make_model("mlp", 0)
    rules = {"muon": Muon(0.02), "rest": AdamW(3e-4)}
    optimizer = partition(rules, fnopt.label(model, {2: "muon", "*": "rest"}))
    step, data = make_step(value_and_grad(model, squared), optimizer), Endless(make_batch(0))
    sweep = fnopt.lr_finder(step, step.init_state(model), data, lowest=1e-4, highest=10)
    assert min(sweep.losses) < 0.7 * sweep.losses[0]
    assert 1e-4 < sweep.suggestion < 1


def test_a_skipped_step_takes_another_batch_at_its_rate():
    """Gradients that are not finite are passed over; when there are no others, or the loss is not, the sweep ends."""
    step = make_step(value_and_grad(nonfinite_loss), SGD())
    state = step.init_state({"w": torch.ones(2)})
    sweep = fnopt.lr_finder(step, state, Endless("good", "gradient"), highest=1e-3, updates=10)
    assert (len(sweep.lrs), sweep.diverged) == (10, False)
    for items, updates in ((("gradient",), 0), (("good", "good", "loss"), 2)):
        sweep = fnopt.lr_finder(step, state, Endless(*items), highest=1e-3, updates=10)
        assert (len(sweep.lrs), sweep.diverged) == (updates, True)


def test_a_loader_with_a_generator_gives_the_same_order_again():
    """A DataLoader in a Stream, shuffled by its own generator, is where it was; a one-shot source is refused."""
    generator = torch.Generator().manual_seed(0)
    dataset = torch.utils.data.TensorDataset(*make_batch(0, 16))
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, generator=generator)
    model = make_model("mlp", 0)
    step, before, data = composed(model), generator.get_state(), Stream(loader)
    fnopt.lr_finder(step, step.init_state(model), data, updates=9)
    assert torch.equal(generator.get_state(), before)
    assert data._drawn == 0


def test_the_picture_is_drawn_or_says_what_it_needs(tmp_path, monkeypatch):
    """`draw` writes a PNG, with a suggestion and without; where matplotlib is missing the error says how to get it."""
    for losses in ([4.0, 3.0, 9.0], [1.0, 2.0, 3.0]):
        LRSweep.of([0.01, 0.1, 1.0], losses, diverged=True).draw(tmp_path / "sweep.png")
        assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'fnopt[demo]'")):
        LRSweep.of([1.0], [1.0], diverged=False).draw(tmp_path / "none.png")


STEP = make_step(value_and_grad(_linear), SGD())
STATE, DATA = STEP.init_state({"w": torch.ones(())}), Endless(torch.ones(1))
WRONG = {
    "an ensemble": (lambda: fnopt.lr_finder(fnopt.ensemble(STEP, 2), STATE, DATA), "the step is a Ensemble, expected"),
    "a list": (lambda: fnopt.lr_finder(STEP, STATE, [1]), "data is a list, expected fnopt.Batches"),
    "one shot": (lambda: fnopt.lr_finder(STEP, STATE, Stream(iter([1]))), "one-shot iterator, whose items"),
    "no range": (lambda: fnopt.lr_finder(STEP, STATE, DATA, lowest=1.0, highest=0.1), "0 < lowest < highest < inf"),
    "from 0": (lambda: fnopt.lr_finder(STEP, STATE, DATA, lowest=0.0), "0 < lowest < highest < inf, got 0.0 and 10.0"),
    "one update": (lambda: fnopt.lr_finder(STEP, STATE, DATA, updates=1), "updates must be an int >= 2, got 1"),
    "lr 0": (lambda: fnopt.lr_finder(fnopt.evolve(STEP, optimizer=SGD(0.0)), STATE, DATA), "no rule of the optimizer"),
    "no more": (
        lambda: fnopt.lr_finder(STEP, STATE, Once(), updates=3),
        "lr_finder: data ended at position 1, expected enough",
    ),
}


class Once:
    """One item and no more."""

    def iter_from(self, position):
        return iter([torch.ones(1)][position:])


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_swept_is_refused(kind):
    """The error says what was expected, and what to do."""
    provoke, message = WRONG[kind]
    with pytest.raises(FnoptError, match=re.escape(message)):
        provoke()
