"""autocast: the forward pass in half precision, params and gradients in float32, to the bit as torch's own loop."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import MODELS, identical, make_batch, make_model, portrait, squared, state_of, untouched
from torch import nn

from fnopt import SGD, accumulate, autocast, make_step, value_and_grad
from fnopt.errors import HyperparameterError
from fnopt.randomness import mix, seeded

laws = settings(max_examples=5)
seeds = st.integers(0, 2**31)
HALVES = [torch.bfloat16, torch.float16]


def in_float32(model, batch):
    """The same loss, its sum taken in float32, as one does under autocast."""
    x, y = batch
    return (model(x).float() - y).square().sum(), len(x)


@laws
@given(seeds, st.sampled_from([2, 4, 8]))
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", MODELS)
def test_it_is_torchs_autocast_loop_to_the_bit(kind, dtype, seed, n):
    """Four updates have the bits of torch's loop: forward pass under torch.autocast, backward pass outside."""
    model = make_model(kind, seed)
    step = make_step(autocast(value_and_grad(model, in_float32), dtype), SGD(0.01, momentum=0.9))
    state, peer = step.init_state(model, seed=seed), copy.deepcopy(model)
    trained = {name: p for name, p in peer.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), 0.01, momentum=0.9, foreach=False)
    for place in range(4):
        batch = make_batch(seed + place, n)
        state, metrics = step.step(state, batch)
        optimizer.zero_grad()
        with seeded(mix(seed, place), torch.device("cpu")), torch.autocast("cpu", dtype):
            loss, weight = in_float32(peer, batch)
        (loss / weight).backward()
        optimizer.step()
        assert int(metrics["skipped"]) == 0
        assert identical(metrics["loss"], (loss / weight).detach())
    assert identical(state.params, {name: p.detach() for name, p in trained.items()})


class Probe(nn.Module):
    """Notes the dtypes of its products forward, and of their gradients backward, and whether autocast is on then."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 4), {}

    def forward(self, x):
        product = self.linear(x)
        self.seen["product"] = product.dtype
        # a product made in the backward pass shows whether autocast reaches there
        product.register_hook(self.note)
        return product

    def note(self, grad):
        fresh = torch.ones(2, 2) @ torch.ones(2, 2)
        self.seen.update(gradient=grad.dtype, backward=fresh.dtype, on=torch.is_autocast_enabled("cpu"))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("wrap", ["inside", "outside", "by the caller"])
def test_where_half_precision_is(wrap, dtype):
    """Matrix products run in it; gradients, params and loss are float32; the backward pass is outside of autocast."""
    model = Probe()
    grad_fn = value_and_grad(model, in_float32)
    state, batch = (
        state_of({"linear." + k: v.detach() for k, v in model.linear.named_parameters()}, SGD(0.1)),
        [make_batch(0)],
    )
    with untouched(state, batch):
        if wrap == "by the caller":
            with torch.autocast("cpu", dtype):
                graded = accumulate(grad_fn)(state, batch)
        else:
            wrapped = accumulate(autocast(grad_fn, dtype)) if wrap == "inside" else autocast(accumulate(grad_fn), dtype)
            graded = wrapped(state, batch)
    assert model.seen == {"product": dtype, "gradient": dtype, "backward": torch.float32, "on": False}
    assert {leaf.dtype for leaf in (*graded.grads.values(), graded.loss, graded.weight)} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_the_backward_pass_inside_a_transform_is_outside_of_autocast_too():
    """One rule on both paths: the same bits under torch.func as without.

    The loss takes its last product in float32, whose backward products autocast would round, were it on.
    """
    model = make_model("mlp", 0)

    def loss(model, batch):
        hidden = model[1](model[0](batch[0]))
        with torch.autocast("cpu", enabled=False):
            return in_float32(model[2], (hidden.float(), batch[1]))

    grad_fn = autocast(value_and_grad(model, loss))
    state = make_step(grad_fn, SGD(0.1)).init_state(model)
    _, grads = torch.func.grad(lambda x: (x, grad_fn(state, make_batch(0)).grads), has_aux=True)(torch.ones(()))
    assert identical(grads, grad_fn(state, make_batch(0)).grads)


@laws
@given(seeds)
@pytest.mark.parametrize("kind", MODELS)
def test_everything_keeps_its_dtype(kind, seed):
    """After a step under autocast every leaf of the state has the dtype it had; the module is as it was."""
    model = make_model(kind, seed)
    before = portrait(model)
    step = make_step(autocast(value_and_grad(model, squared)), SGD(0.1, momentum=0.9))
    state = step.init_state(model)
    new, _ = step.step(state, make_batch(seed))
    for old, leaf in zip(
        (*state.params.values(), *state.buffers.values()), (*new.params.values(), *new.buffers.values()), strict=True
    ):
        assert leaf.dtype == old.dtype
    assert portrait(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8, "bfloat16", None])
def test_only_half_precision_is_one(dtype):
    """Anything else is refused at once; float32 with what to do instead."""
    with pytest.raises(
        HyperparameterError, match=r"autocast: dtype must be torch.bfloat16 or torch.float16.*leave autocast out"
    ):
        autocast(value_and_grad(lambda p, x: (p["w"].sum(), 1)), dtype)


def test_the_default_is_bfloat16():
    """It needs no loss scale: its range is float32's."""
    grad_fn = value_and_grad(lambda p, x: (p["w"].sum(), 1))
    assert autocast(grad_fn) == autocast(grad_fn, torch.bfloat16)
    assert autocast(grad_fn) != autocast(grad_fn, torch.float16)
