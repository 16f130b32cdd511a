"""A step that fails changes nothing: the state before it is whole, and the same step on it then has the same bits."""

import random
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from step_cases import identical, make_batch, make_model, portrait, squared, untouched
from torch.utils._python_dispatch import TorchDispatchMode

import fnopt
from fnopt import (
    AdamW,
    ClipNorm,
    DynamicLossScale,
    accumulate,
    autocast,
    chain,
    ema,
    ensemble,
    lookahead,
    make_step,
    partition,
    record,
    value_and_grad,
)

SOURCE = str(Path(fnopt.__file__).parent)
NO_MEMORY = torch.OutOfMemoryError("out of memory")


class Failing(TorchDispatchMode):
    """Raises at the nth operation of torch that runs inside, forward, backward or in the optimizer."""

    def __init__(self, at, error=NO_MEMORY):
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise self.error
        return func(*args, **(kwargs or {}))


@contextmanager
def interrupted(at):
    """KeyboardInterrupt at the nth line of fnopt's own code that runs inside; gives how many are left."""
    left = [at]

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(before)


STEPS = {"step": lambda step: step, "ensemble": lambda step: ensemble(step, 2)}


def everything(way):
    """(model, step, state, batch) with accumulation, autocast, dropout, running statistics, clip, groups, average."""
    model = make_model("dropout" if way == "ensemble" else "both", 0)  # torch has no batch_norm for vmap with autocast
    names = [name for name, _ in model.named_parameters()]
    groups = partition({"a": AdamW(0.01), "b": lookahead(AdamW(0.02))}, {n: "ab"[i % 2] for i, n in enumerate(names)})
    optimizer = chain(ClipNorm(1.0), ema(groups, 0.9))
    grad_fn = accumulate(autocast(value_and_grad(model, squared)))
    step = STEPS[way](make_step(grad_fn, optimizer, loss_scale=DynamicLossScale(256.0)))
    batch = [make_batch(1), make_batch(2, 5)]
    state, _ = step.step(step.init_state(model, seed=4), batch)
    return model, step, state, batch


def check_failing_at(points, fail, made):
    """However the step fails at these points, neither state nor module or batch notices; nor the global generator, but
    for a Ctrl-C on the very line that gives it back, on whose numbers no step depends.
    """
    model, step, state, batch = made
    expected, before = step.step(state, batch), portrait(model)
    for point in points:
        generator = torch.get_rng_state()
        with untouched(state, batch), pytest.raises(type(fail(point)[1])), fail(point)[0]:
            step.step(state, batch)
        assert fail is ctrl_c or torch.equal(torch.get_rng_state(), generator), point
        assert portrait(model) == before, point
        assert identical(step.step(state, batch), expected), point


def no_memory(point):
    """Out of memory at the nth operation."""
    return Failing(point), NO_MEMORY


def operations(made):
    """How many operations the step has."""
    _, step, state, batch = made
    with Failing(0) as seen:
        step.step(state, batch)
    return seen.count


@pytest.mark.parametrize("way", STEPS)
def test_out_of_memory_at_any_operation_changes_nothing(way):
    """In the forward pass, the backward pass, the optimizer, the select."""
    made = everything(way)
    count = operations(made)
    assert count > 300
    check_failing_at(random.Random(0).sample(range(1, count + 1), 25), no_memory, made)


@pytest.mark.slow
@pytest.mark.parametrize("way", STEPS)
def test_out_of_memory_at_every_operation_changes_nothing(way):
    """The same, all of them."""
    made = everything(way)
    check_failing_at(range(1, operations(made) + 1), no_memory, made)


def ctrl_c(point):
    """Ctrl-C at the nth line."""
    return interrupted(point), KeyboardInterrupt()


def lines(made):
    """How many lines of fnopt the step has."""
    _, step, state, batch = made
    with interrupted(0) as left:
        step.step(state, batch)
    return -left[0]


@pytest.mark.parametrize("way", STEPS)
def test_ctrl_c_at_any_line_changes_nothing(way):
    """Wherever in fnopt it comes."""
    made = everything(way)
    count = lines(made)
    assert count > 2000
    check_failing_at(random.Random(0).sample(range(1, count + 1), 25), ctrl_c, made)


@pytest.mark.slow
def test_ctrl_c_at_every_seventh_line_changes_nothing():
    """The same, hundreds of times."""
    made = everything("step")
    check_failing_at(range(1, lines(made) + 1, 7), ctrl_c, made)


def test_an_optimizer_that_writes_in_place_would_be_caught():
    """The control: where a rule is not pure, a failure after it leaves another state."""

    @record
    class InPlace:
        optimizer: AdamW

        def init_state(self, params):
            return self.optimizer.init_state(params)

        def update(self, grads, state, params):
            new, state = self.optimizer.update(grads, state, params)
            for name, leaf in params.items():
                leaf.copy_(new[name])
            return params, state

    step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), 1)), InPlace(AdamW(0.1)))
    state, batch = step.init_state({"w": torch.ones(2)}), torch.ones(2)
    made = torch.nn.Identity(), step, state, batch
    with pytest.raises(AssertionError):
        check_failing_at(range(1, operations(made) + 1), no_memory, made)
