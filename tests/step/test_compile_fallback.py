"""A step that cannot be compiled runs eagerly, with one warning that says why; a mistake stays the mistake it was."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from compile_cases import batch_of, quadratic, small
from step_cases import identical, make_batch, mlp, squared
from torch import nn

from fnopt import (
    SGD,
    AdamW,
    FallbackWarning,
    accumulate,
    compiled,
    evolve,
    make_step,
    record,
    sam,
    snapshot,
    value_and_grad,
)
from fnopt.compile import program as program_module
from fnopt.errors import EmptyDataError, LossError, StructureError, UsageError


def no_compiler(*_):
    raise RuntimeError("\n  No working C++ compiler found in [None]\nsee the manual")


def branches(params, batch):
    """A loss that looks at a value."""
    return (params["w"].sum() if batch.sum() > 0 else -params["w"].sum()), 1


def runs_plainly(step, state, batches, reason):
    """The step runs eagerly, to the bit, with one warning, which stats repeat."""
    kernels = compiled(step)
    expected, state = snapshot(state), snapshot(state)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in batches:
            expected, wanted = step.step(expected, batch)
            old = state
            state, metrics = kernels.step(state, batch)
            assert repr(old) == "TrainState(donated)"  # as where it is compiled
            assert identical(snapshot(state), snapshot(expected))
            assert identical(metrics, wanted)
    assert [warning.category for warning in caught] == [FallbackWarning]
    assert reason in str(caught[0].message)
    assert kernels.stats.fallback in str(caught[0].message)
    assert (kernels.stats.mode, kernels.stats.graphs, kernels.stats.eager) == ("eager", 0, len(batches))
    assert kernels.last_state is state
    return True


def test_no_compiler(monkeypatch):
    """Where nothing can be compiled, the reason is the first line of what the compiler says."""
    monkeypatch.setattr(program_module, "compile_graph", no_compiler)
    step, state = small()
    reason = "RuntimeError: No working C++ compiler found in [None]"
    assert runs_plainly(step.inner, state, [batch_of(seed) for seed in range(3)], reason)


def test_a_loss_that_looks_at_values():
    """A loss with `if tensor` cannot be traced; both of its branches run eagerly."""
    step = make_step(value_and_grad(branches), SGD(0.1))
    state = step.init_state({"w": torch.ones(2)})
    assert runs_plainly(step, state, [torch.ones(1), -torch.ones(1), torch.ones(1)], "data-dependent")


def test_randomness_under_several_seeds_in_one_graph():
    """sam on a model with dropout draws the same numbers twice, which one graph cannot."""
    model = mlp(nn.Dropout(0.5))
    step = make_step(sam(value_and_grad(model, squared)), SGD(0.1))
    assert runs_plainly(step, step.init_state(model), [make_batch(0), make_batch(1)], "several seeds")


@record
class Curriculum:
    """A GradFn of a stranger, which computes with the place in the run."""

    grad_fn: Any
    shift: int

    def __call__(self, state, batch):
        return self.grad_fn(state, batch * (1.0 + self.shift * state.position))


@pytest.mark.parametrize("shift", [0, 1])
def test_a_stranger_that_computes_with_the_position(shift):
    """A graph would have the position of the first step for ever: such a step runs eagerly, others compile."""
    step = make_step(Curriculum(value_and_grad(quadratic), shift), SGD(0.01))
    state = step.init_state({"w": torch.ones(6), "v": torch.ones(2)})
    if shift:
        assert runs_plainly(step, state, [batch_of(seed) for seed in range(3)], "computes with state.position")
    else:
        kernels = compiled(step)
        kernels.step(state, batch_of(0))
        assert kernels.stats.mode == "compiled"


def test_a_compiled_step_is_a_record():
    """It prints the step inside, equals another of it, pickles without its kernels; evolve changes what is inside."""
    step, _ = small()
    assert repr(step).startswith("Compiled(inner=Step(")
    assert step == compiled(step.inner) == pickle.loads(pickle.dumps(step)) == copy.deepcopy(step)
    assert step != compiled(step.inner, donate=False) == evolve(step, donate=False)
    assert evolve(step, optimizer=SGD(0.1)).inner == evolve(step.inner, optimizer=SGD(0.1))
    assert (step.optimizer, step.loss_scale) == (step.inner.optimizer, step.inner.loss_scale)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = step.nonsense


@record
class Clumsy:
    """An optimizer whose state changes its dtype, or holds what is no tensor."""

    first: Any
    second: Any

    def init_state(self, params):
        return {"seen": self.first}

    def update(self, grads, state, params):
        return dict(params), {"seen": self.second}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (0, 1, "the state holds a int"),
        (torch.zeros(()), torch.zeros((), dtype=torch.float64), "a step changes the structure, a shape or a dtype"),
    ],
)
def test_a_state_that_is_not_tensors_of_one_structure(first, second, reason):
    """A state that holds a number, or changes a dtype, has no buffers to write into."""
    step = make_step(value_and_grad(quadratic), Clumsy(first, second))
    assert runs_plainly(step, step.init_state({"w": torch.ones(6), "v": torch.ones(2)}), [batch_of(0)], reason)


def test_hyperparameters_that_require_grad():
    """A learning rate that requires grad stays on the tape."""
    step = make_step(value_and_grad(quadratic), SGD(torch.tensor(0.1, requires_grad=True)))
    kernels, state = compiled(step), step.init_state({"w": torch.ones(6), "v": torch.ones(2)})
    with pytest.warns(FallbackWarning, match="a hyperparameter requires grad"):
        new, _ = kernels.step(state, batch_of(0))
    assert new.params["w"].requires_grad


def test_a_warning_made_an_error_loses_nothing():
    """Where warnings are errors, the state is not donated when it comes; the next call runs eagerly without one."""
    step = make_step(value_and_grad(branches), SGD(0.1))
    kernels, state = compiled(step), step.init_state({"w": torch.ones(2)})
    with pytest.raises(FallbackWarning):
        kernels.step(state, torch.ones(1))
    assert kernels.last_state is state
    new, _ = kernels.step(state, torch.ones(1))
    assert torch.allclose(new.params["w"], torch.full((2,), 0.9))


@pytest.mark.parametrize(
    ("loss", "batch", "error"),
    [
        (lambda params, batch: params["w"].mean(), batch_of(0), LossError),
        (quadratic, [batch_of(0)], UsageError),
        (lambda params, batch: (params["nonsense"].sum(), 1), batch_of(0), KeyError),
    ],
)
def test_mistakes_raise_what_they_raise_in_eager(loss, batch, error):
    """A loss of the wrong kind, or a batch, raises its own error; no warning, no refusal, and the state is whole."""
    step = make_step(value_and_grad(loss), AdamW(0.1))
    kernels, state = compiled(step), step.init_state({"w": torch.ones(6), "v": torch.ones(2)})
    with pytest.raises(error):
        kernels.step(state, batch)
    assert kernels.stats.fallback is None
    assert kernels.last_state is state
    assert torch.equal(state.params["w"], torch.ones(6))


def test_mistakes_with_micro_batches():
    """A fold asks for a list that is not empty, as eager does; and for a state that was made by a step."""
    kernels = compiled(make_step(accumulate(value_and_grad(quadratic)), AdamW(0.1)))
    state = kernels.init_state({"w": torch.ones(6), "v": torch.ones(2)})
    with pytest.raises(UsageError, match="expected a list of micro-batches"):
        kernels.step(state, batch_of(0))
    with pytest.raises(EmptyDataError):
        kernels.step(state, [])
    with pytest.raises(StructureError, match="has no loss_scale"):
        kernels.step(evolve(state, loss_scale={}), [batch_of(0)])


def test_what_is_no_step_is_refused():
    """compiled takes a step, not a GradFn, and not twice."""
    step, _ = small()
    with pytest.raises(UsageError, match="compiled already"):
        compiled(step)
    with pytest.raises(UsageError, match="expected a step"):
        compiled(value_and_grad(quadratic))


def test_inside_a_transform_it_is_the_step_itself():
    """Under grad and vmap a compiled step is the pure one: hypergradients pass through, nothing is donated."""
    step, state = small()
    batch = batch_of(0)

    def trained(lr, run):
        after, _ = evolve(run, optimizer=evolve(run.optimizer, lr=lr)).step(state, batch)
        return after.params["w"].square().sum()

    for transform in (torch.func.grad, lambda fn: torch.vmap(fn, in_dims=0)):
        lr = torch.tensor(0.1) if transform is torch.func.grad else torch.tensor([0.1, 0.2])
        mine = transform(lambda lr: trained(lr, step))(lr)
        assert torch.equal(mine, transform(lambda lr: trained(lr, step.inner))(lr))
        assert mine.abs().min() > 0
    assert step.stats.mode == "not run"
    assert state.position == 0
