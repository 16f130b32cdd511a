"""Steps that are not finite: nothing of them enters the state; a run that only skips says which tensors, and where."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import ended, identical, make_batch, make_model, squared
from torch.utils._python_dispatch import TorchDispatchMode

from fnopt import (
    SGD,
    AdamW,
    DynamicLossScale,
    NonFiniteError,
    StaticLossScale,
    accumulate,
    compiled,
    ensemble,
    evolve,
    make_step,
    run,
    value_and_grad,
    watch,
)
from fnopt.errors import EmptyDataError, HyperparameterError

laws = settings(max_examples=15)
NAN = float("nan")


class Listed:
    """Batches from a list, endlessly."""

    def __init__(self, *batches):
        self.batches = batches

    def iter_from(self, position):
        return itertools.islice(itertools.cycle(self.batches), position, None)


def linear(params, x):
    """Two parameters, of which one meets the batch."""
    return (params["w"] * x).sum() + params["v"].square().sum(), len(x)


def two():
    """(step, first state) of `linear`."""
    step = make_step(value_and_grad(linear), SGD(0.1))
    return step, step.init_state({"w": torch.ones(()), "v": torch.ones(3)})


@laws
@given(st.integers(0, 2**31), st.data())
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_one_entry_of_one_gradient_is_enough(value, seed, data):
    """Whichever entry of whichever gradient is not finite, nothing but position, scale and counts changes."""
    model = make_model("mlp", seed)
    names = [name for name, _ in model.named_parameters()]
    name = data.draw(st.sampled_from(names))
    entry = data.draw(st.integers(0, model.get_parameter(name).numel() - 1))

    def loss(model, batch):
        def spoil(grad):
            grad = grad.clone()
            grad.view(-1)[entry] = value
            return grad

        path, _, attribute = name.rpartition(".")
        getattr(model.get_submodule(path), attribute).register_hook(spoil)
        return squared(model, batch)

    step = make_step(value_and_grad(model, loss), AdamW(0.1), loss_scale=DynamicLossScale(1024.0))
    state = step.init_state(model)
    new, metrics = step.step(state, make_batch(seed))
    assert metrics["loss"].isfinite()
    counts = {"scale": torch.tensor(512.0), "good": 0 * new.updates, "skipped": 1 + 0 * new.updates}
    expected = evolve(state, position=1, loss_scale={**counts, "skipped_in_a_row": counts["skipped"]})
    assert identical(new, expected)


def skipping_until(plan, patience):
    """The position after which `patience` skipped steps in a row are complete; None if that never happens."""
    in_a_row = 0
    for place, good in enumerate(plan):
        in_a_row = 0 if good else in_a_row + 1
        if in_a_row == patience:
            return place + 1
    return None


def stopped_at(plan, patience):
    """Where a run over this plan of good and bad batches raises; None if it does not."""
    step, state = two()
    data = Listed(*(torch.full((2,), 1.0 if good else NAN) for good in plan))
    seen = []
    try:
        seen.extend(run(step, state, data, sum(plan), patience=patience))
    except NonFiniteError:
        return seen[-1][0].position
    return None


plans = st.lists(st.booleans() | st.just(False), min_size=1, max_size=30).map(lambda plan: [*plan, True])


@laws
@given(plans, st.integers(1, 6))
def test_it_raises_at_the_patience_th_skip_in_a_row(plan, patience):
    """Neither earlier nor later, though it does not look at each step."""
    assert stopped_at(plan, patience) == skipping_until(plan, patience)


def test_looking_at_fixed_times_would_be_late(monkeypatch):
    """The control: a watch that looks every `patience` steps, whatever it saw, raises too late."""
    after = watch.Watch.after

    def fixed(self, state, batch, metrics):
        state = after(self, state, batch, metrics)
        self.due = self.patience - self.taken % self.patience
        return state

    plan = [True] * 2 + [False] * 12 + [True]
    assert stopped_at(plan, 5) == skipping_until(plan, 5) == 7
    monkeypatch.setattr(watch.Watch, "after", fixed)
    assert stopped_at(plan, 5) == 10


class Reads(TorchDispatchMode):
    """Counts how often somebody asks a tensor for its value, which waits for the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("patience", "reads"), [(10, 12), (50, 4), (1, 102)])
@pytest.mark.parametrize("on_nonfinite", ["raise", "rollback"])
def test_a_sound_run_is_read_once_in_patience_steps(patience, reads, on_nonfinite):
    """100 steps are read at the beginning, at the end, and once in `patience` between; with patience 1, at each."""
    step, state = two()
    with Reads() as seen:
        state = ended(run(step, state, Listed(torch.ones(2)), 100, patience=patience, on_nonfinite=on_nonfinite))
    assert seen.count == reads
    assert int(state.updates) == 100


def test_an_earlier_run_does_not_count():
    """After the error, the same state goes on with data that is mended; with the same data, as far again."""
    step, state = two()
    bad, good = Listed(torch.tensor([NAN])), Listed(torch.ones(1))
    for expected in (10, 20):
        seen = []
        with pytest.raises(NonFiniteError):
            seen.extend(run(step, state, bad, 3))
        state = seen[-1][0]
        assert state.position == expected
    state = ended(run(step, state, good, 3))
    assert (int(state.updates), state.position) == (3, 23)


# What is named


def report_of(step, state, *batches):
    """What the error of a run says, and its text."""
    with pytest.raises(NonFiniteError) as caught:
        ended(run(step, state, Listed(*batches), 5, patience=3))
    return caught.value.report, str(caught.value)


@pytest.mark.parametrize("way", ["eager", "compiled", "ensemble", "compiled ensemble"])
def test_the_tensors_are_named(way):
    """Loss, gradients and input, the position and the scale: of a plain, compiled or ensemble step."""
    step, _ = two()
    step = ensemble(step, 3) if "ensemble" in way else step
    step = compiled(step) if "compiled" in way else step
    state = step.init_state({"w": torch.ones(()), "v": torch.ones(3)})
    report, text = report_of(step, state, torch.tensor([1.0, NAN]))
    assert (report.gradients, report.params, report.buffers, report.batch) == (("w",), (), (), ("batch",))
    assert (report.position, report.loss_scale, report.bad) == (2, 1.0, (0,))
    assert text.startswith(
        "run: the last 3 steps were all skipped; at position 2 (loss scale 1): the loss is nan, gradients not finite: "
        "w, and so is the input: batch; look at this batch, lower lr"
    )


def test_the_micro_batch_is_named():
    """Of a list, the first one that is not finite; also where such are dropped, and all of them are."""
    for drop in (False, True):
        step = make_step(accumulate(value_and_grad(linear), drop_nonfinite=drop), SGD(0.1))
        state = step.init_state({"w": torch.ones(()), "v": torch.ones(3)})
        bad, good = torch.tensor([NAN]), torch.ones(2)
        batch = [bad, bad, bad] if drop else [good, bad, good]
        report, text = report_of(step, state, batch)
        assert report.bad == ((0, 1, 2) if drop else (1,))
        assert "in batch[0] of 3 micro" in text if drop else "in batch[1] of 3 micro-batches" in text
        assert [loss != loss for loss in report.losses] == [drop, True, drop]


def test_params_and_buffers_are_named():
    """What was wrong before the step: a weight that is inf, a running statistic that is nan."""
    model = make_model("batch_norm", 0).eval()
    step = make_step(value_and_grad(model, squared), SGD(0.1))
    state = step.init_state(model)
    params = {**state.params, "0.bias": state.params["0.bias"] + float("inf")}
    buffers = {**state.buffers, "1.running_var": state.buffers["1.running_var"] * NAN}
    report, text = report_of(step, evolve(state, params=params, buffers=buffers), make_batch(0))
    assert (report.params, report.buffers, report.batch) == (("0.bias",), ("1.running_var",), ())
    assert set(report.gradients) == set(params)
    assert "gradients not finite: 0.weight, 0.bias, 1.weight, 1.bias, 3.weight and 1 more, parameters not" in text


def test_a_loss_that_is_no_function_is_told_so():
    """Where the gradient is finite the second time, the loss depends on something else."""
    calls = itertools.count()

    def loss(params, x):
        return linear(params, x)[0] * (NAN if next(calls) < 3 else 1.0), 1

    step = make_step(value_and_grad(loss), SGD(0.1))
    state = step.init_state({"w": torch.ones(()), "v": torch.ones(3)})
    assert "the loss is not a function of (state, batch)" in report_of(step, state, torch.ones(1))[1]


def test_randomness_is_that_of_the_step():
    """Dropout that makes a nan at this position makes it again: the gradient is the very one that was skipped."""

    def loss(params, x):
        return (torch.where(torch.rand(4) < 0.5, NAN, 1.0) * params["w"]).sum(), 1

    step = make_step(value_and_grad(loss), SGD(0.1))
    state, seen = step.init_state({"w": torch.ones(4)}), []
    with pytest.raises(NonFiniteError) as caught:
        seen.extend(run(step, state, Listed(None), 5, patience=1))
    assert seen[-1][1]["loss"].isnan()
    assert caught.value.report.gradients == ("w",)


def test_data_without_weight_is_another_error():
    """Nothing was wrong with a number: every token is masked, say."""
    step = make_step(value_and_grad(lambda params, x: (params["w"].sum(), 0)), SGD(0.1))
    with pytest.raises(EmptyDataError, match=r"the last 10 steps were all skipped; at position 9 nothing had weight"):
        list(run(step, step.init_state({"w": torch.ones(1)}), Listed(None), 5))


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"patience": 2.0}, {"patience": True}, {"on_nonfinite": "skip"}])
def test_wrong_arguments_are_refused(wrong):
    """Before the first step."""
    step, state = two()
    with pytest.raises(HyperparameterError, match=rf"run: {next(iter(wrong))} must be"):
        next(run(step, state, Listed(torch.ones(1)), 5, **wrong))


# The search of a loss scale


def steep(scale):
    """A step whose gradient is 2^70: it overflows at scales of 2^58 and more, as those of float16 do at 2^16."""
    step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), 1)), SGD(2.0**-72), loss_scale=scale)
    return step, step.init_state({"w": torch.ones(1)})


@pytest.mark.parametrize("way", [lambda step: step, compiled, lambda step: ensemble(step, 2)])
def test_the_search_of_a_loss_scale_is_no_failure(way):
    """From 2^100 it takes 43 skipped steps to 2^57, and the run goes on."""
    step = way(steep(DynamicLossScale(2.0**100))[0])
    state = step.init_state({"w": torch.ones(1)})
    state = ended(run(step, state, Listed(torch.tensor([2.0**70])), 3))
    assert state.position == 46
    assert (state.loss_scale["scale"] == 2.0**57).all()


def test_what_is_not_found_by_a_lower_scale_is_a_failure():
    """A scale that cannot fall, and a nan that no scale brings away, end the run after the usual patience."""
    for scale, batch, named in (
        (StaticLossScale(2.0**100), 2.0**70, ()),
        (DynamicLossScale(2.0**100), NAN, ("batch",)),
    ):
        step, state = steep(scale)
        with pytest.raises(NonFiniteError, match=r"the last 10 steps") as caught:
            list(run(step, state, Listed(torch.tensor([batch])), 3))
        assert caught.value.report.batch == named
        assert caught.value.report.loss_scale == (2.0**91 if named else 2.0**100)


def test_without_the_look_at_the_scale_the_search_would_fail(monkeypatch):
    """The control: a watch that only counts ends a sound run."""
    monkeypatch.setattr(watch, "is_searching", lambda *_: False)
    step, state = steep(DynamicLossScale(2.0**100))
    with pytest.raises(NonFiniteError, match=r"\(loss scale 2.47588e\+27\): the loss is"):
        list(run(step, state, Listed(torch.tensor([2.0**70])), 3))
