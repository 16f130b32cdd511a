"""Parameter groups, hyperparameters that change, gradients that are missing, closures: the same as with torch.optim."""

import pytest
import torch
from contract_cases import ALL_FLAGS, SEVEN, THREE, agree, attempt, draw, fill, look, parameters, start, train
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")
OVERRIDES = {
    "AdamW": {"betas": (0.5, 0.6), "weight_decay": 0.5, "amsgrad": True},
    "Adam": {"betas": (0.5, 0.6), "weight_decay": 0.5, "eps": 0.1},
    "SGD": {"momentum": 0.5, "nesterov": True},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adagrad": {"weight_decay": 0.5, "lr_decay": 0.5},
    "Adafactor": {"weight_decay": 0.5, "d": 3.0},
    "Muon": {"momentum": 0.5, "ns_steps": 3},
}
CHANGES = {
    "AdamW": {"betas": (0.5, 0.6), "maximize": True, "eps": 0.1, "weight_decay": 0.5},
    "Adam": {"betas": (0.5, 0.6), "maximize": True, "decoupled_weight_decay": True, "weight_decay": 0.5},
    "SGD": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.5},
    "RMSprop": {"alpha": 0.5, "maximize": True, "eps": 0.1},
    "Adagrad": {"lr_decay": 0.5, "eps": 0.1, "maximize": True},
    "Adafactor": {"d": 4.0, "beta2_decay": -0.2, "eps": (1e-2, 1e-1)},
    "Muon": {"momentum": 0.2, "nesterov": False, "ns_steps": 2},
}


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
def test_a_plain_run(name, flags):
    """Weights, state and groups of ten steps are torch's, after each of them."""

    def script(optim):
        opt, params = start(optim, name, flags)
        seen = [look(opt, params)]
        for time in range(10):
            train(opt, params, (time,))
            seen.append(look(opt, params))
        return seen

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_groups_with_overrides(name):
    """A group's own arguments hold for it, the constructor's for the others, and extra keys are kept."""

    def script(optim):
        params = parameters(name)
        groups = [
            {"params": params[0], "lr": 0.5},
            {"params": iter(params[1:2]), **OVERRIDES[name], "note": "a client's own key"},
            {"params": params[2:]},
        ]
        opt = getattr(optim, name)(groups, lr=0.05)
        train(opt, params, range(4))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_group_added_late(name):
    """A group added before the first step or after some starts its own state and leaves the others' alone."""

    def script(optim):
        params = parameters(name)
        opt = getattr(optim, name)(params[:1])
        opt.add_param_group({"params": params[1]})
        train(opt, params[:2], range(3))
        opt.add_param_group({"params": params[2:], "lr": 0.3, **OVERRIDES[name]})
        seen = look(opt, params)
        train(opt, params, range(3, 6))
        return seen, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_hyperparameters_are_read_at_every_step(name):
    """What a client writes into a group between two steps holds from the next one, and only in that group."""

    def script(optim):
        params = parameters(name)
        opt = getattr(optim, name)([{"params": params[:1]}, {"params": params[1:]}])
        train(opt, params, range(3))
        opt.param_groups[1].update(CHANGES[name])
        train(opt, params, range(3, 6))
        opt.param_groups[0]["lr"] *= 0.1
        opt.param_groups[1]["weight_decay"] = 0.3
        train(opt, params, range(6, 9))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", ["AdamW", "Adam", "RMSprop", "SGD"])
def test_a_flag_that_needs_more_state_turned_on_late(name):
    """Momentum turned on after some steps makes its buffer where torch's does; what torch has no state for, raises."""
    change = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9}}.get(name, {"amsgrad": True})

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(2))
        opt.param_groups[0].update(change)
        end = attempt(lambda: train(opt, params, range(2, 4)) or look(opt, params))
        return end if isinstance(end, dict) else "raised"

    agree(script)


@pytest.mark.parametrize("name", [name for name in SEVEN if name != "Adafactor"])  # its step size is ours, in float64
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_lr_written_in_place(name, shape):
    """An lr tensor that a client fills with a new value counts from the next step, and stays the client's tensor."""

    def script(optim):
        lr = torch.full(shape, 0.1)
        opt, params = start(optim, name, {"lr": lr})
        train(opt, params, range(2))
        lr.fill_(0.4)
        train(opt, params, range(2, 4))
        assert opt.param_groups[0]["lr"] is lr
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", ["AdamW", "Adam"])
@pytest.mark.parametrize("capturable", [False, True])
def test_tensor_betas(name, capturable):
    """Betas may be tensors of one element; a step with them gives torch's bits, or its error when capturable."""

    def script(optim):
        flags = {"betas": (torch.tensor(0.8), torch.tensor([0.9])), "capturable": capturable}
        opt, params = start(optim, name, flags)
        return attempt(lambda: train(opt, params, range(3)) or look(opt, params))

    agree(script)


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
def test_gradients_that_are_none(name, flags):
    """A parameter without a gradient is left as it is and its clock stands still; a zero gradient is a gradient."""

    def script(optim):
        opt, params = start(optim, name, flags)
        for time in range(8):
            fill(params, time)
            for place, param in enumerate(params):
                if (time + place) % 3 == 0 or (place == 2 and time < 5):
                    param.grad = None
                elif (time + place) % 3 == 1:
                    param.grad.zero_()
            opt.step()
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("zeros", [False, True])
def test_a_step_without_any_gradient(name, zeros):
    """With every gradient None a step changes nothing and makes no state; with zeros it is an ordinary step."""

    def script(optim):
        opt, params = start(optim, name)
        for param in params:
            param.grad = torch.zeros_like(param) if zeros else None
        opt.step()
        first = look(opt, params)
        train(opt, params, range(2))
        return first, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_frozen_parameter(name):
    """A parameter that needs no gradient may be in a group, and may be thawed later."""

    def script(optim):
        params = parameters(name)
        params[1].requires_grad_(False)
        opt = getattr(optim, name)(params)
        train(opt, [params[0], *params[2:]], range(2))
        params[1].requires_grad_(True)
        train(opt, params, range(2, 4))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("flags", [{}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(name, flags, set_to_none):
    """zero_grad sets gradients to None, or fills the very same tensors with zeros and detaches them."""

    def script(optim):
        opt, params = start(optim, name, flags)
        fill(params[:-1], 0)
        before = [param.grad for param in params]
        attached = draw((3, 4), 5).requires_grad_()
        params[0].grad = attached * 2
        opt.zero_grad(set_to_none)
        kept = [param.grad is grad for param, grad in zip(params, before, strict=True)]
        return kept, [param.grad for param in params], before

    agree(script)


def test_zero_grad_sets_to_none_unless_told_otherwise():
    """The default of zero_grad is None, and a step after it does nothing."""

    def script(optim):
        model = nn.Linear(2, 2)
        opt = optim.AdamW(model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        opt.zero_grad()
        opt.step()
        return [param.grad for param in model.parameters()], len(opt.state)

    agree(script)
