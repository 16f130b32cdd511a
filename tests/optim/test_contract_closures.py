"""Closures, grad modes and autograd's bookkeeping around a step are the same as with torch.optim."""

import pytest
import torch
from contract_cases import SEVEN, agree, attempt, draw, fill, look, start, train
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def quadratic(opt, params, log):
    """A closure that computes gradients and notes the grad mode it runs in."""

    def closure():
        log.append(torch.is_grad_enabled())
        opt.zero_grad()
        loss = sum(((param - 1) ** 2).sum() for param in params)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("outer", [torch.enable_grad, torch.no_grad])
def test_a_closure(name, outer):
    """A closure runs once, with gradients enabled whatever the mode outside; its very loss comes back."""

    def script(optim):
        log = []
        opt, params = start(optim, name)
        closure = quadratic(opt, params, log)
        with outer():
            losses = [opt.step(closure), opt.step(closure=closure)]
            log.append(torch.is_grad_enabled())
        return log, losses, opt.step(), look(opt, params)

    log, *_ = agree(script)
    assert log[:2] == [True, True]


@pytest.mark.parametrize("value", [1.5, None, "a string", [1]])
def test_whatever_a_closure_returns_comes_back(value):
    """The loss need not be a tensor: a step hands back the object that the closure gave."""

    def script(optim):
        opt, params = start(optim, "SGD")
        fill(params, 0)
        assert opt.step(lambda: value) is value
        return look(opt, params)

    agree(script)


def test_a_step_without_a_closure_returns_none():
    """step() and step(None) return None, and too many arguments are a TypeError."""

    def script(optim):
        opt, params = start(optim, "AdamW")
        fill(params, 0)
        error = attempt(lambda: opt.step(None, None))
        return opt.step(), opt.step(None), error.type

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_weights_and_state_stay_the_same_tensors(name):
    """A step writes in place: the same tensors, the same memory, for weights and for every entry of the state."""

    def script(optim):
        opt, params = start(optim, name)
        before = [param.data_ptr() for param in params]
        train(opt, params, range(2))
        entries = [(param, key, value, value.data_ptr()) for param in params for key, value in opt.state[param].items()]
        saved = opt.state_dict()["state"]
        train(opt, params, range(2, 4))
        assert [param.data_ptr() for param in params] == before
        assert all(param.is_leaf and param.requires_grad for param in params)
        assert all(opt.state[param][key] is value and value.data_ptr() == at for param, key, value, at in entries)
        return saved, look(opt, params)  # the saved state moved along, as torch's does

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_step_leaves_gradients_alone(name):
    """A step reads gradients and writes none, keeps none of them as state, and records nothing for autograd."""

    def script(optim):
        opt, params = start(optim, name, {"maximize": True} if name != "Muon" else {})
        fill(params, 0)
        grads = [(param.grad, param.grad.clone()) for param in params]
        opt.step()
        for param, (grad, copy) in zip(params, grads, strict=True):
            assert param.grad is grad
            assert torch.equal(grad, copy)
            grad.zero_()
        return look(opt, params), [param.grad_fn for param in params]

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_autograd_sees_that_weights_changed(name):
    """A backward through weights that a step has changed since is refused: the step counts as a write."""

    def script(optim):
        opt, params = start(optim, name)
        loss = sum((param**2).sum() for param in params)
        train(opt, params, (0,))
        error = attempt(loss.backward)
        assert "modified by an inplace operation" in error.text
        return error.type

    agree(script)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Muon"])
def test_gradients_that_carry_a_graph(name):
    """A gradient made with create_graph is used as a plain number: no graph grows into the weights or the state."""

    def script(optim):
        opt, params = start(optim, name)
        for _ in range(3):
            loss = sum((param**3).sum() for param in params)
            grads = torch.autograd.grad(loss, params, create_graph=True)
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            opt.step()
        return look(opt, params)

    agree(script)


def test_inside_inference_mode():
    """A step inside inference_mode does what torch's does, and so does the one after it."""

    def script(optim):
        opt, params = start(optim, "AdamW")
        fill(params, 0)
        with torch.inference_mode():
            first = attempt(opt.step)
        return first, attempt(lambda: train(opt, params, (1,)) or look(opt, params))

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_with_float64_as_the_default_dtype(name):
    """The clock has torch's dtype where float64 is the default, and weights in float32 keep torch's bits."""

    def script(optim):
        torch.set_default_dtype(torch.float64)
        try:
            opt, params = start(optim, name)
            train(opt, params, range(3))
            return look(opt, params)
        finally:
            torch.set_default_dtype(torch.float32)

    agree(script)


def test_a_model_that_trains():
    """A small network trained by backward() has torch's weights to the bit, and the loss went down."""

    def script(optim):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))
        opt = optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(30):
            opt.zero_grad()
            loss = (model(draw((16, 4), 9)) - draw((16, 2), 10)).square().mean()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        return losses, look(opt, model.parameters())

    losses, _ = agree(script)
    assert losses[-1] < losses[0] * 0.8
