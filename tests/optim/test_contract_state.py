"""What `state` and `param_groups` hold, and what clients may do to them, is the same as with torch.optim."""

import collections
import copy

import pytest
import torch
from contract_cases import (
    ALL_FLAGS,
    SEVEN,
    THREE,
    agree,
    attempt,
    draw,
    fill,
    look,
    parameters,
    start,
    train,
)
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def kinds(opt, params):
    """For each parameter its keys, and for each of these what kind of thing it is."""
    return [
        {key: (type(value).__name__, str(getattr(value, "dtype", ""))) for key, value in opt.state[param].items()}
        if param in opt.state
        else "absent"
        for param in params
    ]


@pytest.mark.parametrize(("name", "flags"), ALL_FLAGS)
def test_state_is_made_when_torch_makes_it(name, flags):
    """State is a defaultdict of dicts, empty before the first gradient (but for Adagrad), with torch's keys."""

    def script(optim):
        opt, params = start(optim, name, flags)
        assert type(opt.state) is collections.defaultdict
        assert opt.state.default_factory is dict
        seen = [kinds(opt, params)]
        opt.step()
        seen.append(kinds(opt, params))
        train(opt, params[:1], (0,))
        seen.append(kinds(opt, params))
        train(opt, params, (1,))
        return [*seen, kinds(opt, params), look(opt, params)]

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_asking_for_state_that_is_not_there(name):
    """Looking up a parameter in `state` before the first step makes an empty dict, as in torch, and does no harm."""

    def script(optim):
        opt, params = start(optim, name)
        found = [len(opt.state[param]) for param in params]
        train(opt, params, range(2))
        return found, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_client_writes_into_the_state(name):
    """Entries that a client overwrites, in place or by another tensor, count from the next step."""

    def script(optim):
        opt, params = start(optim, name, {"momentum": 0.9} if name == "SGD" else {})
        train(opt, params, range(2))
        for place, param in enumerate(params):
            for key, value in list(opt.state[param].items()):
                if place % 2:
                    value.mul_(2)
                else:
                    opt.state[param][key] = value * 3
        train(opt, params, range(2, 4))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("how", ["clear", "replace", "one"])
def test_a_client_drops_the_state(name, how):
    """State that a client cleared, replaced or dropped for one parameter starts anew where torch's does."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(2))
        if how == "clear":
            opt.state.clear()
        elif how == "replace":
            opt.state = collections.defaultdict(dict)
        else:
            opt.state.pop(params[1], None)
        return attempt(lambda: train(opt, params, range(2, 4)) or look(opt, params))

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_client_adds_keys(name):
    """A string key of `state`, and extra keys inside a parameter's state, are kept, saved, loaded and left alone."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, (0,))
        opt.state["client"] = {"note": torch.ones(2)}
        opt.state[params[0]]["ema"] = params[0].detach().clone()
        opt.state[params[0]]["count"] = 3
        train(opt, params, (1,))
        seen = look(opt, params)
        opt.load_state_dict(copy.deepcopy(seen["state_dict"]))
        train(opt, params, (2,))
        return seen, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", [name for name in SEVEN if name not in ("SGD", "Muon")])
@pytest.mark.parametrize("number", [5, 5.0])
def test_a_clock_that_is_a_python_number(name, number):
    """A state of old torch, whose step is a number, loads: the step becomes a tensor and goes on from there."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(2))
        saved = opt.state_dict()
        for state in saved["state"].values():
            state["step"] = number
        opt.load_state_dict(saved)
        seen = look(opt, params)
        train(opt, params, (2,))
        return seen, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_groups_replaced_by_a_client(name):
    """Groups may be replaced, extended (with repeats), reordered; group["params"] may become other tensors."""

    def script(optim):
        opt, params = start(optim, name)
        train(opt, params, range(2))
        group = opt.param_groups[0]
        opt.param_groups = [{**group, "params": params[1:], "lr": 0.2}, {**group, "params": params[:1]}]
        train(opt, params, range(2, 4))
        seen = look(opt, params)
        opt.param_groups.extend(dict(group) for group in list(opt.param_groups))
        repeats = look(opt, params)
        del opt.param_groups[2:]
        fresh = nn.Parameter(draw((3, 4), 8))
        opt.param_groups[0]["params"] = [fresh]
        train(opt, [fresh, *params], range(4, 6))
        return seen, repeats, kinds(opt, [fresh, *params]), [param.detach().clone() for param in (fresh, *params)]

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_parameters_replaced_before_the_first_step(name):
    """Parameters swapped for others right after construction, as FSDP2 does, get the state of a fresh optimizer."""

    def script(optim):
        params = parameters(name)
        opt = getattr(optim, name)([nn.Parameter(torch.empty(1, 1)) for _ in params])
        opt.param_groups[0]["params"] = params
        train(opt, params, range(3))
        return [param.detach().clone() for param in params], kinds(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_group_without_its_keys(name):
    """A group that a client appended without hyperparameters is torch's KeyError at the step."""

    def script(optim):
        params = parameters(name)
        opt = getattr(optim, name)(params[:1])
        opt.param_groups.append({"params": params[1:]})
        fill(params, 0)
        error = attempt(opt.step)
        del opt.param_groups[0]["lr"]
        return error.type, attempt(opt.step).type

    agree(script)


@pytest.mark.parametrize("name", THREE)
def test_named_parameters(name):
    """Names given with parameters are kept in the groups and in what is saved; a load without names keeps them."""

    def script(optim):
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        named = list(model.named_parameters())
        for place, (_, param) in enumerate(named):
            param.data = draw(param.shape, 4, place)
        opt = getattr(optim, name)([{"params": named[:2]}, {"params": iter(named[2:]), "lr": 0.5}])
        train(opt, [param for _, param in named], range(3))
        seen = look(opt, model.parameters())
        bare = opt.state_dict()
        for group in bare["param_groups"]:
            del group["param_names"]
        opt.load_state_dict(bare)
        return seen, look(opt, model.parameters())

    seen, _ = agree(script)
    assert seen["state_dict"]["param_groups"][1]["param_names"] == ["1.weight", "1.bias"]


def test_adagrad_shares_its_memory():
    """Adagrad alone has state from the start, and share_memory moves its sums to shared memory."""

    def script(optim):
        opt, params = start(optim, "Adagrad")
        opt.share_memory()
        train(opt, params, range(2))
        return [opt.state[param]["sum"].is_shared() for param in params], look(opt, params)

    shared, _ = agree(script)
    assert all(shared)


def test_attributes_that_clients_write():
    """defaults, param_groups and state can be assigned, and foreign attributes be set, as Accelerate does."""

    def script(optim):
        opt, params = start(optim, "AdamW")
        opt.defaults = {**opt.defaults, "lr": 0.7}
        opt.initial_seed = 3
        opt.add_param_group({"params": [nn.Parameter(draw((2,), 3))]})
        train(opt, params, range(2))
        return opt.param_groups[1]["lr"], opt.defaults, sorted(key for key in vars(opt) if key == "initial_seed")

    agree(script)
