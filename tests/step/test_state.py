"""The border between a module and a TrainState: params_of, buffers_of, load_into, snapshot, eval_params."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import MODELS, identical, make_batch, make_model, portrait, squared, tensors
from torch import nn

from fnopt import (
    SGD,
    AdamW,
    TrainState,
    buffers_of,
    chain,
    ema,
    evolve,
    load_into,
    make_step,
    params_of,
    snapshot,
    value_and_grad,
)
from fnopt.errors import StructureError

laws = settings(max_examples=5)
seeds = st.integers(0, 2**31)


@laws
@given(seeds)
@pytest.mark.parametrize("kind", MODELS)
def test_params_and_buffers_are_all_that_a_module_holds(kind, seed):
    """Every parameter that requires grad is in params, all other tensors in buffers, each once, by canonical name."""
    model = make_model(kind, seed)
    params, buffers = params_of(model), buffers_of(model)
    assert list(params) == [name for name, p in model.named_parameters() if p.requires_grad]
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert held.keys() == params.keys() | buffers.keys()
    assert len(held) == len(params) + len(buffers)
    for name, leaf in {**params, **buffers}.items():
        assert identical(leaf, held[name].detach())
        assert leaf.stride() == held[name].stride()


@laws
@given(seeds)
@pytest.mark.parametrize("kind", MODELS)
def test_load_into_is_the_inverse(kind, seed):
    """After load_into the module holds the state's bits in its own tensors, and copying them out gives the state."""
    model, other = make_model(kind, seed), make_model(kind, seed + 1)
    step = make_step(value_and_grad(model, squared), AdamW(0.1))
    state, _ = step.step(step.init_state(model), make_batch(seed))
    held = {name: id(tensor) for name, tensor in (*other.named_parameters(), *other.named_buffers())}
    load_into(other, state)
    assert identical([params_of(other), buffers_of(other)], [state.params, state.buffers])
    assert held == {name: id(tensor) for name, tensor in (*other.named_parameters(), *other.named_buffers())}
    with torch.no_grad():
        next(other.parameters()).add_(1)  # the module's own memory: the state does not notice
    assert not identical(params_of(other), state.params)


def test_load_into_lists_all_mismatches_and_writes_nothing():
    """A state of another model: every name and shape that differs is in the error, and the module is as it was."""
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(8)])
    other = nn.Sequential(nn.Linear(2, 2), *[nn.Linear(3, 3) for _ in range(7)], nn.BatchNorm1d(2))
    state = TrainState.of(params_of(other), buffers=buffers_of(other))
    state.params.pop("0.bias")
    before = portrait(model)
    with pytest.raises(StructureError, match="load_into: this state is not of this Sequential") as caught:
        load_into(model, state)
    message = str(caught.value)
    assert "only in the model: 0.bias" in message
    for name in ("8.weight", "8.bias", "8.running_mean", "8.running_var", "8.num_batches_tracked"):
        assert f"only in the state: {name}" in message
    for place in range(1, 8):
        assert f"{place}.weight: [3, 3] in the state, [2, 2] in the model" in message
        assert f"{place}.bias: [3] in the state, [2] in the model" in message
    assert portrait(model) == before


@laws
@given(seeds)
def test_a_snapshot_survives_whatever_happens(seed):
    """It is equal, and shares no memory: writing over every tensor of the original changes none of its bits."""
    model = make_model("both", seed)
    step = make_step(value_and_grad(model, squared), ema(AdamW(0.1), 0.9))
    state, _ = step.step(step.init_state(model, seed=seed), make_batch(seed))
    state = evolve(state, extra={"best": torch.tensor(0.5)})
    copy = snapshot(state)
    assert identical(copy, state)
    expected = [leaf.tolist() for leaf in tensors(copy)]
    for leaf in tensors(state):
        leaf.fill_(7)
    assert [leaf.tolist() for leaf in tensors(copy)] == expected
    assert copy != state


@pytest.mark.parametrize("where", ["alone", "in a chain", "nowhere"])
def test_eval_params_finds_the_average(where):
    """A step's eval_params is the ema wherever it stands, and params where there is none; buffers are not averaged."""
    model = make_model("batch_norm", 0)
    inner = AdamW(0.1) if where == "nowhere" else ema(AdamW(0.1), 0.5)
    step = make_step(value_and_grad(model, squared), chain(inner) if where == "in a chain" else inner)
    state = step.init_state(model)
    assert identical(step.eval_params(state), state.params)  # before the first update it is usable: equal to params
    average = state.params
    for place in range(3):
        state, _ = step.step(state, make_batch(place))
        average = {name: torch.lerp(leaf, state.params[name], 0.5) for name, leaf in average.items()}
    assert identical(step.eval_params(state), state.params if where == "nowhere" else average)
    assert identical(state.params, step.eval_params(state)) == (where == "nowhere")


def test_extra_is_the_users():
    """No step touches it."""
    model = make_model("mlp", 0)
    step = make_step(value_and_grad(model, squared), SGD(0.1))
    state = evolve(step.init_state(model), extra={"best": torch.tensor(0.5)})
    new, _ = step.step(state, make_batch(0))
    assert new.extra is state.extra
