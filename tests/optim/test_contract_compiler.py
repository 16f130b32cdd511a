"""torch.compile over a step, and gradients through a step: the same as with torch.optim."""

import functools

import pytest
import torch
import torch._dynamo.testing
from contract_cases import FLAGS, SEVEN, THREE, agree, attempt, differs, draw, fill, look, parameters, start, train
from torch import nn

from fnopt import optim as fnopt_optim

pytestmark = pytest.mark.usefixtures("one_thread")
DIFFERENTIABLE = [
    (name, flags)
    for name in ("AdamW", "Adam", "SGD", "RMSprop", "Adagrad")
    for flags in ({}, {"weight_decay": 0.1}, *FLAGS[name][1:])
]
LEARNED = [
    (name, flags, learned)
    for name, flags in DIFFERENTIABLE
    for learned in ((None, "lr", "weight_decay") if name in THREE else (None,))
]
SIDES = (torch.optim, fnopt_optim)
# torch's own compiler still uses torch.jit inside, which torch itself calls deprecated
by_dynamo = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture
def fresh_dynamo():
    """No graph of another test counts."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_run(optim, name, backend):
    """Three steps through a compiled `step`, then one more eager one."""
    opt, params = start(optim, name, {"lr": 0.1})
    step = torch.compile(opt.step, backend=backend)
    for time in range(3):
        fill(params, time)
        step()
    train(opt, params, (3,))
    return [param.detach().clone() for param in params], opt.state_dict()


@pytest.mark.slow
@by_dynamo
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_step(name, backend):
    """torch.compile(opt.step) runs and gives the weights of the eager run within rounding, with torch's state."""
    plain, plain_params = start(torch.optim, name, {"lr": 0.1})
    train(plain, plain_params, range(4))
    weights, saved = compiled_run(fnopt_optim, name, backend)
    tolerance = 1e-2 if name == "Muon" else 2e-6  # Muon's matrix products are in bfloat16
    for got, expected in zip(weights, plain_params, strict=True):
        torch.testing.assert_close(got, expected.detach(), rtol=tolerance, atol=tolerance)
    expected = plain.state_dict()
    assert list(saved["state"]) == list(expected["state"])
    for key, state in expected["state"].items():
        assert list(saved["state"][key]) == list(state)


@pytest.mark.slow
@by_dynamo
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", THREE)
def test_a_compiled_function_that_steps(name):
    """A compiled function that calls opt.step() reads an lr written between calls and gives eager's weights."""

    def run(optim, wrap):
        opt, params = start(optim, name, {"lr": torch.tensor(0.1)})

        def train_step():
            opt.step()

        function = wrap(train_step)
        for time in range(4):
            fill(params, time)
            opt.param_groups[0]["lr"].fill_(0.1 / (time + 1))
            function()
        return [param.detach() for param in params]

    expected = run(torch.optim, lambda function: function)
    got = run(fnopt_optim, lambda function: torch.compile(function, backend="eager"))
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
@by_dynamo
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_the_number_of_graphs(name, tensor_lr):
    """A compiled step whose lr changes makes no more graphs than torch's does."""

    def graphs(optim):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounter()
        opt, params = start(optim, name, {"lr": torch.tensor(0.1) if tensor_lr else 0.1})
        fill(params, 0)
        step = torch.compile(opt.step, backend=counter)
        for time in range(5):
            opt.param_groups[0]["lr"] *= 0.9
            fill(params, time)
            step()
        return counter.frame_count

    assert graphs(fnopt_optim) <= graphs(torch.optim)


@pytest.mark.slow
@by_dynamo
@pytest.mark.usefixtures("fresh_dynamo")
def test_a_compiled_model():
    """A compiled module trains with our optimizer outside of the graph, as with torch's."""

    def script(optim):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        compiled = torch.compile(model, backend="eager")
        opt = optim.AdamW(model.parameters(), lr=0.1)
        for time in range(4):
            opt.zero_grad()
            compiled(draw((5, 3), 1, time)).square().mean().backward()
            opt.step()
        return [param.detach() for param in model.parameters()]

    agree(script)


def after_two_steps(optim, name, flags, learned, *inputs):
    """A loss of the weights after two steps, as a function of the weights before them and of a hyperparameter."""
    *roots, number = inputs
    params = [root.clone() for root in roots]
    for param in params:
        param.retain_grad()  # else torch warns that someone reads .grad of a tensor that is no leaf
    opt = getattr(optim, name)(params, differentiable=True, **{**flags, **({learned: number} if learned else {})})
    for time in range(2):
        for place, (param, root) in enumerate(zip(params, roots, strict=True)):
            param.grad = root**2 + draw(root.shape, 3, place, time).double()
        opt.step()
    return sum((param**2).sum() for param in params) + 0 * number


def inputs_of(name):
    """Weights in float64, and the hyperparameter."""
    number = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    return [*(param.detach().double().requires_grad_() for param in parameters(name)), number]


@pytest.mark.parametrize(("name", "flags", "learned"), LEARNED)
def test_gradients_through_a_step(name, flags, learned):
    """Gradients through two differentiable steps are torch's; where torch has none or cuts them, true ones."""
    inputs = inputs_of(name)

    def gradients(optim):
        return attempt(lambda: torch.autograd.grad(after_two_steps(optim, name, flags, learned, *inputs), inputs))

    expected, got = map(gradients, SIDES)
    if not isinstance(expected, tuple):
        assert flags.keys() & {"amsgrad", "centered", "momentum"}  # torch overwrites what its own gradient needs
        assert isinstance(got, tuple) or issubclass(got.type, expected.type)
    elif "momentum" not in flags:  # torch detaches the first momentum
        assert isinstance(got, tuple), got
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # torch takes beta**step in float32
    if isinstance(got, tuple):
        loss = functools.partial(after_two_steps, fnopt_optim, name, flags, learned)
        assert torch.autograd.gradcheck(loss, inputs, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "RMSprop", "Adagrad"])
def test_differentiable_on_leaves(name):
    """On a leaf that requires gradients, differentiable=True is autograd's RuntimeError, as in torch."""

    def script(optim):
        opt, params = start(optim, name, {"differentiable": True})
        fill(params, 0)
        return attempt(opt.step).type

    assert agree(script) is RuntimeError


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "RMSprop", "Adagrad"])
def test_differentiable_on_leaves_without_gradients(name):
    """On tensors that require none, differentiable=True trains like any other run, with torch's keys of the state."""
    sides = []
    for optim in SIDES:
        opt, params = start(optim, name, {"differentiable": True})
        for param in params:
            param.requires_grad_(False)
        train(opt, params, range(3))
        sides.append(look(opt, params))
    expected, got = sides
    torch.testing.assert_close(
        got["weights"], expected["weights"], rtol=2e-6, atol=2e-6
    )  # torch's order is another here
    assert got["repr"] == expected["repr"]
    kept = [{key: list(state) for key, state in side["state_dict"]["state"].items()} for side in sides]
    assert differs(*reversed(kept)) is None
