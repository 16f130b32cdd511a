"""torch.optim.swap_in_optimizer_params_and_state: a step on other tensors than the optimizer's own, also in a trace."""

import copy

import pytest
import torch
from distributed_cases import CLIP, KINDS, MORE_KINDS, assert_same, distance, make, net, outcome, train
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import swap_in_optimizer_params_and_state
from torch.utils import _pytree as pytree

ALL = [*KINDS, *MORE_KINDS]
TRANSFORMED = [kind for kind in ALL if kind != "Adagrad"]  # torch's Adagrad reads its step as a Python number
CLOSE = {"rtol": 1e-6, "atol": 1e-7}  # torch's differentiable steps have other bits than its usual ones
CLOSE_CHAIN = {"rtol": 1e-5, "atol": 1e-6}


def setup(library, kind, differentiable=False, scale=1.0):
    """A model and an optimizer that have trained; and what a step on other tensors takes, and its param groups."""
    model = net()
    optimizer = make(library, kind, model.parameters())
    train(model, optimizer, range(2))
    params = {name: param.detach() + 0.5 for name, param in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    grads = {name: scale * torch.randn(param.shape, generator=generator) for name, param in params.items()}
    optimizer.param_groups[0]["differentiable"] = differentiable
    state = copy.deepcopy(optimizer.state_dict())
    return model, optimizer, (params, state["state"], grads), state["param_groups"]


def step_of(optimizer, groups):
    """A step as a function of parameters, states and gradients, which writes into the first two."""

    def step(params, states, grads):
        params = dict(params)
        for name, param in params.items():
            param.grad = grads[name].clone()
        with swap_in_optimizer_params_and_state(optimizer, params, {"state": states, "param_groups": groups}):
            optimizer.step()
        return params, states

    return step


def stepped(library, kind, **options):
    """What a step of the optimizer makes of other tensors."""
    _, optimizer, trees, groups = setup(library, kind, **options)
    return step_of(optimizer, groups)(*trees)


def swapped(library, kind, factor=1.0):
    """Two steps on other tensors, the second one with another learning rate; and what became of the live run."""
    model, optimizer, trees, groups = setup(library, kind)
    before, group = copy.deepcopy(outcome(model, optimizer)), dict(optimizer.param_groups[0])
    step = step_of(optimizer, groups)
    step(*trees)
    groups[0]["lr"] *= factor
    step(*trees)
    assert_same(outcome(model, optimizer), before)
    assert optimizer.param_groups[0] == group
    train(model, optimizer, range(2, 4))
    return {"params": trees[0], "state": trees[1], "live": outcome(model, optimizer)}


def stacked(trees):
    """One tree with a first dimension of members in each tensor."""
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


@pytest.mark.parametrize("kind", ALL)
def test_bits(kind):
    """The other tensors get torch's bits, in place; the live run is untouched, and goes on as torch's does."""
    ours = swapped("fnopt", kind, 0.1)
    assert_same(ours, swapped("torch", kind, 0.1))
    assert distance(ours, ours["live"]) > 1e-2
    assert distance(ours, swapped("fnopt", kind)) > 1e-4


def test_a_chain():
    """A chain that clips does to other tensors what clip_grad_norm_ and AdamW do, up to the rounding of the norm."""
    ours, theirs = swapped("fnopt", CLIP, 0.1), swapped("torch", CLIP, 0.1)
    assert_same([ours["params"], ours["live"]["params"]], [theirs["params"], theirs["live"]["params"]], **CLOSE_CHAIN)
    assert distance(ours, swapped("fnopt", "AdamW", 0.1)) > 1e-3


def test_an_error_puts_the_live_run_back():
    """Whatever happens within, the optimizer has its own parameters and state afterwards, and goes on."""
    model, optimizer, (params, states, _), groups = setup("fnopt", "AdamW")
    before = copy.deepcopy(outcome(model, optimizer))
    fails = optimizer.register_step_post_hook(lambda optimizer, *_: 1 / 0)
    state = {"state": states, "param_groups": groups}
    with pytest.raises(ZeroDivisionError), swap_in_optimizer_params_and_state(optimizer, params, state):
        optimizer.step()
    fails.remove()
    assert_same(outcome(model, optimizer), before)
    assert list(optimizer.state) == list(model.parameters())


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
@pytest.mark.parametrize("kind", ALL)
def test_a_trace_is_the_step(kind, mode):
    """A graph that make_fx made of the step on fake tensors does to real ones what torch's step does."""
    _, optimizer, trees, groups = setup("fnopt", kind)
    before = copy.deepcopy(trees)
    graph = make_fx(step_of(optimizer, groups), tracing_mode=mode)(*trees)
    assert_same(trees, before)
    assert_same(graph(*trees), stepped("torch", kind))
    assert distance({"params": trees[0]}, {"params": before[0]}) > 1e-4


@pytest.mark.parametrize("kind", ALL)
def test_functionalize(kind):
    """torch.func.functionalize of the step has torch's results."""
    _, optimizer, trees, groups = setup("fnopt", kind)
    assert_same(torch.func.functionalize(step_of(optimizer, groups))(*trees), stepped("torch", kind))


@pytest.mark.parametrize("kind", TRANSFORMED)
def test_a_trace_of_real_tensors(kind):
    """With `differentiable`, without which torch's own step cannot, a trace of real tensors is the step too."""
    _, optimizer, trees, groups = setup("fnopt", kind, differentiable=True)
    graph = make_fx(step_of(optimizer, groups))(*trees)
    *_, trees, _ = setup("fnopt", kind, differentiable=True)
    assert_same(graph(*trees), stepped("torch", kind, differentiable=True), **CLOSE)


@pytest.mark.filterwarnings("ignore:There is a performance drop because")  # torch has no batching rule for lerp_
@pytest.mark.parametrize("kind", TRANSFORMED)
def test_vmap(kind):
    """With `differentiable` the step goes through vmap, and each member gets what torch gives to it alone."""
    scales = [1.0, 2.0, 3.0]
    trees = stacked([setup("fnopt", kind, scale=scale)[2] for scale in scales])
    _, optimizer, _, groups = setup("fnopt", kind, differentiable=True)
    ours = torch.vmap(step_of(optimizer, groups))(*trees)
    theirs = [stepped("torch", kind, differentiable=True, scale=scale) for scale in scales]
    assert_same(ours, stacked(theirs), **CLOSE)
    assert not torch.equal(ours[0]["0.weight"][0], ours[0]["0.weight"][1])
