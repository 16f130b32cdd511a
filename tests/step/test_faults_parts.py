"""What a user wrote fails, or kernels do: the state before is whole, and a run goes on from it to the same bits."""

import pytest
import torch
from compile_cases import accumulated, micro_batches, network
from step_cases import ended, identical, make_batch, squared, untouched

from fnopt import (
    AdamW,
    BatchError,
    Batches,
    ClipNorm,
    DonatedStateError,
    accumulate,
    chain,
    compiled,
    ema,
    evolve,
    make_step,
    partition,
    record,
    run,
    snapshot,
    value_and_grad,
)
from fnopt.compile.engine import Engine
from fnopt.compile.held import Held
from fnopt.compile.program import Program

NO_MEMORY = torch.OutOfMemoryError("out of memory")


class Bug(Exception):
    """A mistake of the user's."""


@record
class Stumbling:
    """A transform that raises when it is told to."""

    armed: list

    def init_state(self, params):
        return {}

    def transform(self, grads, state, params):
        if self.armed:
            raise Bug
        return grads, state


PLACES = {
    "first": lambda stumbling: chain(stumbling, ClipNorm(1.0), ema(AdamW(0.1), 0.9)),
    "between": lambda stumbling: chain(ClipNorm(1.0), stumbling, ema(AdamW(0.1), 0.9)),
    "in a group": lambda stumbling: partition(
        {"a": AdamW(0.1), "b": chain(stumbling, AdamW(0.1))}, {"w": "a", "v": "b"}
    ),
    "in an average": lambda stumbling: ema(chain(stumbling, AdamW(0.1)), 0.9),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("donate", [None, True, False])
def test_a_bug_at_any_transform_changes_nothing(place, donate):
    """Eager, compiled or donated: the state is there after the mistake, and the mended step goes on from it."""
    armed = []
    step = make_step(
        value_and_grad(lambda params, x: ((params["w"] * x).sum() + params["v"].square().sum(), len(x))),
        PLACES[place](Stumbling(armed)),
    )
    step = step if donate is None else compiled(step, donate=donate)
    first = step.init_state({"w": torch.ones(2), "v": torch.ones(2)})
    armed.append(True)  # before anything is compiled: kernels have no transforms to stumble in
    with untouched(first), pytest.raises(Bug):
        step.step(first, torch.ones(2))
    armed.clear()
    mended = evolve(step, engine=Engine()) if donate is not None else step
    expected = snapshot(mended.step(snapshot(first), torch.ones(2))[0])
    assert identical(snapshot(mended.step(first, torch.ones(2))[0]), expected)


@pytest.mark.parametrize("error", [Bug, KeyboardInterrupt, MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize(  # kernels have no loss to fail in
    ("way", "place"),
    [("eager", place) for place in ("loss", "backward", "collate", "dataset")] + [("compiled", "collate")],
)
def test_a_run_goes_on_after_a_failure_anywhere(way, place, error):
    """From the state that was handed over last, a new `run` ends with the bits of the one that nothing happened to."""
    armed = {"where": None}

    def act(where):
        if armed["where"] == where:
            armed["where"] = None
            raise error("once")

    class Samples(list):
        def __getitem__(self, index):
            act("dataset")
            return super().__getitem__(index)

    def collate(samples):
        act("collate")
        return torch.stack(samples)

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            act("backward")
            return grad

    def loss(params, x):
        act("loss")
        wide = params["w"] if way == "compiled" else Backward.apply(params["w"])
        return (wide * x).square().sum(), len(x)

    data = Batches(Samples(torch.arange(1.0, 8.0)), batch_size=2, collate=collate)
    plain = make_step(value_and_grad(loss), AdamW(0.1))
    step = compiled(plain) if way == "compiled" else plain
    first = step.init_state({"w": torch.ones(())})
    expected = snapshot(ended(run(step, snapshot(first), data, 7)))
    seen = []

    def until_it_fails():
        for state, _ in run(step, snapshot(first), data, 7):
            seen[:] = [state]
            armed["where"] = place if state.position == 4 else None

    with pytest.raises(error):
        until_it_fails()
    (state,) = seen
    assert state.position == 4
    assert identical(snapshot(ended(run(step, state, data, 7))), expected)


# Kernels


def test_kernels_of_a_gradient_may_fail(monkeypatch):
    """Out of memory in any micro-batch: the donated state is still the last one, and the step is made again.

    The kernels that write are the one place where a failure costs the state, and it says so.
    """
    step = compiled(accumulated(network()))
    batch = micro_batches(0, 4, 4, 4)
    state, _ = step.step(step.init_state(network()), batch)
    start = snapshot(state)
    expected = snapshot(step.step(snapshot(start), batch)[0])
    call, fails_in = Program.__call__, [0]

    def failing(self, inputs):
        fails_in[0] -= 1
        if fails_in[0] == 0:
            raise NO_MEMORY
        return call(self, inputs)

    monkeypatch.setattr(Program, "__call__", failing)
    for n in (1, 2, 3):
        fails_in[0] = n
        with pytest.raises(torch.OutOfMemoryError):
            step.step(state, batch)
        assert step.last_state is state
        assert identical(snapshot(state), start)
    fails_in[0] = 4
    with pytest.raises(torch.OutOfMemoryError) as caught:
        step.step(state, batch)
    assert step.last_state is None
    assert "load a checkpoint" in caught.value.__notes__[0]
    with pytest.raises(DonatedStateError):
        _ = state.params
    assert identical(snapshot(step.step(snapshot(start), batch)[0]), expected)


@pytest.mark.parametrize("lists", [False, True])
def test_a_batch_that_kernels_cannot_take_changes_nothing(lists):
    """A trace lets a wrong dtype pass, and its kernels fail: the first time on a copy, and eager says what is wrong."""
    model = torch.nn.Linear(4, 4)
    grad_fn = value_and_grad(model, squared)
    step = compiled(make_step(accumulate(grad_fn) if lists else grad_fn, AdamW(0.1)))
    good = make_batch(0)
    bad = good[0].double(), good[1]
    one, other = ([good, good], [good, bad]) if lists else (good, bad)
    state, _ = step.step(step.init_state(model), one)
    start = snapshot(state)
    expected = snapshot(step.step(snapshot(start), one)[0])
    for _ in range(4):  # seen once, compiled, and again
        with untouched(start), pytest.raises(BatchError, match=r"batch\[0\] is torch.float64 on cpu"):
            step.step(state, other)
        assert step.last_state is state
        assert identical(snapshot(state), start)
    assert step.stats.fallback is None
    assert identical(snapshot(step.step(state, one)[0]), expected)
    assert step.stats.mode == "compiled"


def test_without_the_copy_that_batch_would_cost_the_state(monkeypatch):
    """The control: a new program that runs on the state itself leaves half of one, or nobody knows."""
    monkeypatch.setattr(Held, "copy", lambda self: self)
    model = torch.nn.Linear(4, 4)
    step = compiled(make_step(value_and_grad(model, squared), AdamW(0.1)))
    state, _ = step.step(step.init_state(model), make_batch(0))
    bad = make_batch(0)[0].double(), make_batch(0)[1]
    with pytest.raises(BatchError):  # seen once: eager
        step.step(state, bad)
    with pytest.raises(DonatedStateError):
        step.step(state, bad)
    assert step.last_state is None


def test_without_donation_kernels_may_always_fail(monkeypatch):
    """donate=False runs the same kernels on a copy: also a failure of those that write changes nothing."""
    step = compiled(accumulated(network()), donate=False)
    batch = micro_batches(0, 4, 4)
    state, _ = step.step(step.init_state(network()), batch)
    expected = snapshot(step.step(state, batch)[0])
    call, fails_in = Program.__call__, [0]

    def failing(self, inputs):
        fails_in[0] -= 1
        result = call(self, inputs)
        if fails_in[0] == 0:
            raise NO_MEMORY
        return result

    monkeypatch.setattr(Program, "__call__", failing)
    for n in (1, 2, 3):
        fails_in[0] = n
        with untouched(state), pytest.raises(torch.OutOfMemoryError):
            step.step(state, batch)
        assert step.last_state is not None
        assert identical(snapshot(step.step(state, batch)[0]), expected)
