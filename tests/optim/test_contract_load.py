"""Damaged states, foreign ways into the state, and torch's swap of parameters: no worse than with torch.optim."""

import copy
from typing import Any

import pytest
import torch
from contract_cases import SEVEN, SHAPES, THREE, Raised, agree, attempt, differs, draw, look, start, train
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fnopt import optim as fnopt_optim

pytestmark = pytest.mark.usefixtures("one_thread")


def of_first(**entries: Any):
    """A damage to the state of the first parameter."""
    return lambda saved: saved["state"][0].update(copy.deepcopy(entries))


def of_group(**entries: Any):
    """A damage to the first group."""
    return lambda saved: saved["param_groups"][0].update(entries)


DAMAGES = {
    "another shape": of_first(exp_avg=torch.zeros(7, 7)),
    "a shape that broadcasts": of_first(exp_avg=torch.zeros(4)),
    "a moment missing": lambda saved: saved["state"][0].pop("exp_avg_sq"),
    "the clock missing": lambda saved: saved["state"][0].pop("step"),
    "a negative clock": of_first(step=torch.tensor(-3.0)),
    "another class": lambda saved: saved.update(
        state={place: {"momentum_buffer": torch.zeros(shape)} for place, shape in enumerate(SHAPES)}
    ),
    "a nan": lambda saved: saved["state"][0]["exp_avg"].fill_(torch.nan),
    "integers": of_first(exp_avg=torch.ones(3, 4, dtype=torch.int64)),
    "no lr": lambda saved: saved["param_groups"][0].pop("lr"),
    "lr a word": of_group(lr="fast"),
    "lr negative": of_group(lr=-1.0),
    "beta too large": of_group(betas=(1.5, 0.9)),
    "an unknown entry": of_first(unknown=torch.ones(1)),
    "an unknown key": of_group(unknown=1),
    "an index of no parameter": lambda saved: saved["state"].update({99: {"step": torch.tensor(1.0)}}),
    "no state": lambda saved: saved.pop("state"),
    "no groups": lambda saved: saved.pop("param_groups"),
    "swapped parameters": lambda saved: saved["param_groups"][0].update(params=[1, 0, 2, 3]),
}
OUT_OF_RANGE = ("lr a word", "lr negative", "beta too large", "no lr")


def load_damaged(optim, name, damage):
    """What a load of a damaged state raises, whether it changed anything, and what two steps after it give."""
    opt, params = start(optim, name)
    train(opt, params, range(2))
    saved = copy.deepcopy(opt.state_dict())
    damage(saved)
    before = look(opt, params)
    refused = attempt(lambda: opt.load_state_dict(saved))
    changed = differs(look(opt, params), before)
    if isinstance(refused, Raised):
        return refused, changed, None
    return None, changed, attempt(lambda: train(opt, params, range(2, 4)) or look(opt, params))


@pytest.mark.parametrize("name", ["AdamW", "Adam"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state(name, kind):
    """What torch refuses at load or at the step is refused no later; what it runs has its bits, if it is in range."""
    (refused, _, end), (got_refused, got_changed, got_end) = (
        load_damaged(optim, name, DAMAGES[kind]) for optim in (torch.optim, fnopt_optim)
    )
    if refused:
        assert differs(got_refused, refused) is None
    elif got_refused:
        assert kind in OUT_OF_RANGE
        assert issubclass(got_refused.type, ValueError | KeyError)
        assert got_changed is None, "a load that was refused changed something"
    elif isinstance(end, Raised):
        assert isinstance(got_end, Raised)
    else:
        assert differs(got_end, end) is None


@pytest.mark.parametrize("name", SEVEN)
def test_a_step_that_makes_the_state(name):
    """With zero gradients and lr 0, as torch's checkpoints make a state, weights stay and the state is torch's."""

    def script(optim):
        opt, params = start(optim, name)
        before = [param.detach().clone() for param in params]
        lrs = [group["lr"] for group in opt.param_groups]
        for param in params:
            param.grad = torch.zeros_like(param)
        for group in opt.param_groups:
            group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], torch.Tensor) else 0.0
        opt.step(closure=None)
        for group, lr in zip(opt.param_groups, lrs, strict=True):
            group["lr"] = lr
        opt.zero_grad(set_to_none=True)
        assert differs([param.detach() for param in params], before) is None
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_swapped_parameters_and_state(name):
    """Inside torch's swap_in_optimizer_params_and_state a step works on what was swapped in, and on nothing else."""

    def script(optim):
        opt, params = start(optim, name, {"momentum": 0.9} if name == "SGD" else {})
        train(opt, params, range(2))
        before = look(opt, params)
        others = {f"p{place}": param.detach().clone() for place, param in enumerate(params)}
        state = copy.deepcopy(opt.state_dict())
        for place, param in enumerate(others.values()):
            param.grad = draw(param.shape, 5, place)
        with optim.swap_in_optimizer_params_and_state(opt, others, state):
            opt.step()
        after = look(opt, params)
        assert differs(after, before) is None
        train(opt, params, range(2, 4))
        return others, state, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", THREE)
def test_a_step_traced(name):
    """A step over fake tensors, swapped in, can be traced by make_fx; the live weights and state are not touched."""
    opt, params = start(fnopt_optim, name, {"momentum": 0.9} if name == "SGD" else {})
    train(opt, params, range(2))
    before = look(opt, params)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = {f"p{place}": mode.from_tensor(param.detach()) for place, param in enumerate(params)}
        state = pytree.tree_map_only(torch.Tensor, mode.from_tensor, opt.state_dict())
        grads = [mode.from_tensor(torch.ones_like(param)) for param in params]

    def step(fakes, state, grads):
        for param, grad in zip(fakes.values(), grads, strict=True):
            param.grad = grad
        with fnopt_optim.swap_in_optimizer_params_and_state(opt, fakes, state):
            opt.step()
        return fakes, state

    graph = make_fx(step)(fakes, state, grads)
    assert len(graph.graph.nodes) > 20
    assert differs(look(opt, params), before) is None
