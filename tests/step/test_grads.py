"""value_and_grad: the gradient is that of loss.backward() on the module itself, which stays as it was."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from step_cases import MODELS, identical, make_batch, make_model, portrait, squared, state_of, untouched
from torch import nn
from torch.nn import functional as F

from fnopt import SGD, StaticLossScale, TrainState, evolve, make_step, value_and_grad
from fnopt.randomness import mix, seeded

laws = settings(max_examples=8)
seeds = st.integers(0, 2**31)
CPU = torch.device("cpu")


def oracle(model, seed=0, scale=1.0):
    grad_fn = value_and_grad(model, squared)
    return grad_fn, make_step(grad_fn, SGD(0.1), loss_scale=StaticLossScale(scale)).init_state(model, seed=seed)


def backward(model, state, batch, gradient=None):
    """What torch itself does, on a copy of the module: the loss, gradients by name, and the buffers afterwards."""
    peer = copy.deepcopy(model)
    with seeded(mix(state.seed, state.position), CPU):
        loss, _ = squared(peer, batch)
        loss.backward(gradient)
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in peer.named_parameters()
        if p.requires_grad
    }
    return loss.detach(), grads, {name: buffer.detach() for name, buffer in peer.named_buffers()}


# Laws, over every kind of module


@laws
@given(seeds, st.integers(2, 9), st.sampled_from([1.0, 3.0, 1024.0]) | st.floats(0.25, 1e3, width=32))
@pytest.mark.parametrize("kind", MODELS)
def test_the_gradient_is_that_of_backward(kind, seed, n, scale):
    """To the bit: a backward pass seeded with scale / weight, its result times weight / scale."""
    model, batch = make_model(kind, seed), make_batch(seed, n)
    grad_fn, state = oracle(model, seed, scale)
    graded = grad_fn(state, batch)
    weight, scale = torch.tensor(float(n)), torch.tensor(scale)
    loss, grads, _ = backward(model, state, batch, scale * (1 / weight))
    assert identical(graded.loss, loss)
    assert identical(graded.weight, weight)
    assert identical(graded.grads, {name: grad * (weight / scale) for name, grad in grads.items()})
    assert any(grad.ne(0).sum() > grad.numel() / 2 for grad in grads.values())  # not a comparison of zeros


@laws
@given(seeds, st.integers(1, 4), st.integers(-4, 12))
@pytest.mark.parametrize("kind", MODELS)
def test_powers_of_two_are_exact(kind, seed, weight, scale):
    """With a weight and a scale that are powers of two it is the gradient of the sum, loss.backward(), to the bit."""
    model, batch = make_model(kind, seed), make_batch(seed, 2**weight)
    grad_fn, state = oracle(model, seed, 2.0**scale)
    assert identical(grad_fn(state, batch).grads, backward(model, state, batch)[1])


@laws
@given(seeds, st.integers(2, 9))
@pytest.mark.parametrize("kind", MODELS)
def test_buffers_are_those_of_the_module(kind, seed, n):
    """Buffers come back as the live module's would be after two forward passes, of every kind and dtype."""
    model = make_model(kind, seed)
    grad_fn, state = oracle(model, seed)
    peer = copy.deepcopy(model)
    for place in range(2):
        batch = make_batch(seed + place, n)
        state = evolve(state, buffers=grad_fn(state, batch).buffers)
        with seeded(mix(state.seed, state.position), CPU):
            squared(peer, batch)
    expected = {name: buffer.detach() for name, buffer in peer.named_buffers()}
    frozen = {name: p.detach() for name, p in peer.named_parameters() if not p.requires_grad}
    assert identical(state.buffers, {**frozen, **expected})
    assert not any(buffer.requires_grad for buffer in state.buffers.values())


@laws
@given(seeds, st.booleans())
@pytest.mark.parametrize("kind", MODELS)
def test_nothing_else_changes(kind, seed, fails):
    """State, batch, the live module and torch's generator stay as they were, also when the loss raises."""
    model, batch = make_model(kind, seed), make_batch(seed)
    _, state = oracle(model, seed)
    model[0].eval() if isinstance(model, nn.Sequential) else model.eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))

    def loss(module, batch):
        output = squared(module, batch)
        if fails:
            raise RuntimeError("out of memory, say")
        return output

    before, generator = portrait(model), torch.get_rng_state()
    with untouched(state, batch):
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                value_and_grad(model, loss)(state, batch)
        else:
            value_and_grad(model, loss)(state, batch)
    assert portrait(model) == before
    assert torch.equal(torch.get_rng_state(), generator)


@laws
@given(seeds, st.integers(0, 5), st.integers(0, 5))
@pytest.mark.parametrize("kind", ["dropout", "both", "embedding"])
def test_dropout_is_a_function_of_seed_and_position(kind, seed, a, b):
    """The same (seed, position) drops the same, whatever was drawn meanwhile; another position drops other entries."""
    grad_fn, state = oracle(make_model(kind, seed), seed)
    batch = make_batch(seed, 32)
    first = grad_fn(evolve(state, position=a), batch)
    torch.rand(a + 1)
    second = grad_fn(evolve(state, position=b), batch)
    assert identical(first.grads, second.grads) == (a == b)
    assert not identical(grad_fn(evolve(state, seed=seed + 1, position=a), batch).grads, first.grads)


@laws
@given(seeds, st.sampled_from([0, 0.0, False, torch.tensor(0), torch.tensor(-1.0)]), st.booleans())
@pytest.mark.parametrize("kind", ["batch_norm", "assigning", "shared"])
def test_without_weight_nothing_counts(kind, seed, weight, poisoned):
    """Weight 0: loss, gradients and aux are zeros and buffers the old ones, also where all of it came out nan."""
    model, (x, y) = make_model(kind, seed), make_batch(seed)
    x = x * float("nan") if poisoned else x

    def loss(model, batch):
        total, _ = squared(model, batch)
        return total, weight, {"hits": total}

    grad_fn = value_and_grad(model, loss)
    state = make_step(grad_fn, SGD(0.1)).init_state(model)
    graded = grad_fn(state, (x, y))
    zeros = {name: torch.zeros_like(p) for name, p in state.params.items()}
    assert identical(graded.grads, zeros)
    assert identical([graded.loss.item(), graded.aux["hits"].item()], [0.0, 0.0])
    assert identical(graded.buffers, state.buffers)


# Params of every dtype, and losses without a module


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
        (torch.complex128, torch.complex128),
    ],
)
def test_grads_are_float32_or_wider(dtype, expected):
    """The gradient of a sum is wide enough to add up, whatever params are made of: here of sum |w|^2, which is 2 w."""
    params = {"w": torch.tensor([1, -2, 3], dtype=dtype)}
    graded = value_and_grad(lambda p, x: ((p["w"].abs() ** 2).sum(), 4))(state_of(params, SGD(0.1)), None)
    assert graded.grads["w"].dtype == expected
    assert torch.equal(graded.grads["w"], 2 * params["w"].to(expected))
    assert graded.loss.dtype in (torch.float32, torch.float64)


def test_a_pure_function_of_params():
    """Without a module: exact gradients of a polynomial, keys and order of params, buffers handed through."""
    params = {"b": torch.tensor(2.0), "a": torch.tensor([1.0, 3.0]), "unused": torch.ones(0)}
    state = TrainState.of(params, buffers={"mean": torch.ones(2)})
    graded = value_and_grad(lambda p, x: ((p["a"] * x).sum() * p["b"], len(x), {"n": 5, "b": p["b"]}))(
        state, torch.tensor([10.0, 20.0])
    )
    assert list(graded.grads) == ["b", "a", "unused"]
    assert identical(graded.grads, {"b": torch.tensor(70.0), "a": torch.tensor([20.0, 40.0]), "unused": torch.zeros(0)})
    assert identical(graded.aux, {"n": torch.tensor(5.0), "b": torch.tensor(2.0)})
    assert identical(graded.buffers, {"mean": torch.ones(2)})
    assert not graded.aux["b"].requires_grad
    assert int(graded.dropped) == 0


def test_nothing_to_train():
    """A model whose parameters are all frozen has a loss and no gradients."""
    model = nn.Linear(4, 4).requires_grad_(False)
    grad_fn, state = oracle(model)
    graded = grad_fn(state, make_batch(0))
    assert graded.grads == {}
    assert graded.loss > 0


def test_the_loss_sees_the_real_module():
    """The model that a loss gets has its class, its methods and attributes, and the state's weights."""

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.temperature = nn.Linear(4, 4), 3.0

        def energy(self, x):
            return F.softplus(self.net(x)) / self.temperature

    model = Energy()
    seen = []

    def loss(module, x):
        seen.append((module is model, module.net.weight.detach().clone()))
        return module.energy(x).sum(), len(x)

    state = make_step(value_and_grad(model, loss), SGD(0.1)).init_state(model)
    state = evolve(state, params={name: leaf + 1 for name, leaf in state.params.items()})
    value_and_grad(model, loss)(state, make_batch(0)[0])
    assert seen[0][0]
    assert torch.equal(seen[0][1], state.params["net.weight"])
    assert not torch.equal(seen[0][1], model.net.weight)
