"""load_state_dict: what strict=True takes, by name, and the keeping of new hyperparameters."""

import copy

import pytest
import torch
from contract_cases import differs
from strict_cases import NAMES, SEVEN, assert_untouched, by_names, look, made, network, saved, train, trained

from fnopt import SGD, ClipNorm, ScaleByAdam, chain, ema, optim, partition
from fnopt.errors import StateMismatchError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(model):
    """A copy, to load into another one."""
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", SEVEN)
def test_another_order_of_parameters_loads_by_name(name, count):
    """A model that lists its parameters in another order continues to the bit of the uninterrupted run."""
    orders = (NAMES, NAMES[::-1]) if count == 1 else (NAMES, ("first", "third", "second"))
    (before, model), (after, other) = (trained(name, steps=3, count=count, model=network(order)) for order in orders)
    other.load_state_dict(weights_of(model))
    train(after, other, range(20, 22))  # its own state is another now
    other.load_state_dict(weights_of(model))
    after.load_state_dict(copy.deepcopy(before.state_dict()), strict=True)
    for optimizer, owner in ((before, model), (after, other)):
        train(optimizer, owner, range(3, 8))
    assert differs(by_names(after, other), by_names(before, model)) is None


@pytest.mark.parametrize("name", SEVEN)
def test_torchs_own_state_loads(name):
    """A state_dict that torch.optim made of named parameters is taken, and the run goes on as torch's does."""
    theirs, model = trained(name, module=torch.optim)
    ours, other = made(name)
    other.load_state_dict(weights_of(model))
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()), strict=True)
    for optimizer, owner in ((theirs, model), (ours, other)):
        train(optimizer, owner, range(3, 6))
    assert differs(by_names(ours, other), by_names(theirs, model)) is None


@pytest.mark.parametrize("name", SEVEN)
def test_a_fresh_state_loads(name):
    """The state of an optimizer that never stepped is taken, also by one that stepped, which then is fresh."""
    fresh = copy.deepcopy(made(name)[0].state_dict())
    for steps in (0, 2):
        optimizer, model = trained(name, steps=steps)
        optimizer.load_state_dict(copy.deepcopy(fresh), strict=True)
        assert differs(optimizer.state_dict(), fresh) is None
        begun = look(optimizer, model)["weights"]
        other = made(name)[1]
        other.load_state_dict({key: value.detach() for key, value in begun.items()})
        train(optimizer, model, range(3))
        again, _ = made(name, model=other)
        train(again, other, range(3))
        assert differs(by_names(optimizer, model), by_names(again, other)) is None


def test_a_parameter_without_a_state_is_refused_where_others_have_one():
    """A parameter that never had a gradient is told from one whose state was lost only by the user: strict refuses."""
    optimizer, model = made("AdamW")
    model["first"].grad = torch.ones_like(model["first"])
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(StateMismatchError, match="strict=False loads it"):
        optimizer.load_state_dict(state, strict=True)
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("keep", [False, True])
def test_without_names_strict_is_a_usage_error(keep):
    """An optimizer of model.parameters() cannot match by name: UsageError with the fix, and nothing has changed."""
    model = network()
    optimizer = optim.AdamW(model.parameters())
    train(optimizer, model, range(2))
    before = look(optimizer, model)
    with pytest.raises(UsageError, match="named_parameters"):
        optimizer.load_state_dict(saved("AdamW"), strict=True, keep_hyperparameters=keep)
    assert_untouched(before, look(optimizer, model))
    optimizer.load_state_dict(saved("AdamW"))


def test_a_state_without_names_is_refused():
    """A state saved from model.parameters() is refused by name, with the fix."""
    model = network()
    nameless = torch.optim.AdamW(model.parameters()).state_dict()
    with pytest.raises(StateMismatchError, match="named_parameters"):
        made("AdamW")[0].load_state_dict(nameless, strict=True)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", SEVEN)
def test_a_new_learning_rate_is_kept(name, count, strict):
    """With keep_hyperparameters the state is the file's and the groups' numbers are those set before; else not."""
    state = saved(name, count=count)
    for keep in (False, True):
        optimizer, model = made(name, count=count, lr=0.3)
        for group in optimizer.param_groups:
            group["lr"] = 0.125
        optimizer.load_state_dict(copy.deepcopy(state), strict=strict, keep_hyperparameters=keep)
        assert [group["lr"] == 0.125 for group in optimizer.param_groups] == [keep] * count
        assert differs(optimizer.state_dict()["state"], state["state"]) is None
        train(optimizer, model, range(1))


def test_torch_overwrites_the_new_learning_rate():
    """Negative control: torch's load, and ours without the flag, put the old rate back."""
    optimizer, _ = made("AdamW", module=torch.optim, lr=0.125)
    optimizer.load_state_dict(saved("AdamW"))
    assert optimizer.param_groups[0]["lr"] != 0.125


def test_a_kept_rate_is_used():
    """After a load that keeps them, the next update is made with the new numbers."""
    state, moves = saved("SGD"), []
    for lr in (0.1, 0.2):
        optimizer, model = made("SGD", lr=lr)
        optimizer.load_state_dict(copy.deepcopy(state), strict=True, keep_hyperparameters=True)
        before = model["first"].detach().clone()
        train(optimizer, model, range(1))
        moves.append(model["first"].detach() - before)
    torch.testing.assert_close(2 * moves[0], moves[1], rtol=1e-5, atol=1e-6)


def test_another_division_into_groups():
    """Other groups than those saved are refused with the fix, and keep_hyperparameters takes the state by name."""
    optimizer, model = made("AdamW", count=2)
    with pytest.raises(StateMismatchError, match="keep_hyperparameters=True"):
        optimizer.load_state_dict(saved("AdamW"), strict=True)
    optimizer.load_state_dict(saved("AdamW"), strict=True, keep_hyperparameters=True)
    other, its = trained("AdamW")
    for name, param in model.named_parameters():
        assert differs(optimizer.state[param], other.state[its[name]]) is None


RULES = {
    "chain": lambda: chain(ScaleByAdam(), ClipNorm(1.0), SGD(0.1, momentum=0.9)),
    "ema": lambda: ema(SGD(0.1), 0.9),
    "partition": lambda: partition({"a": SGD(0.1), "b": ema(SGD(0.2))}, dict(zip(NAMES, "aba", strict=True))),
}


@pytest.mark.parametrize("rule", RULES)
def test_any_pure_optimizer_loads_strictly(rule):
    """States of transforms and wrappers load by name, and the run goes on to the bit; damaged, they are refused."""
    (one, model), (two, other) = (
        (optim.TorchOptimizer(model.named_parameters(), RULES[rule]()), model) for model in (network(), network())
    )
    train(one, model, range(3))
    other.load_state_dict(weights_of(model))
    state = copy.deepcopy(one.state_dict())
    two.load_state_dict(copy.deepcopy(state), strict=True)
    for optimizer, owner in ((one, model), (two, other)):
        train(optimizer, owner, range(3, 6))
    assert differs(by_names(two, other), by_names(one, model)) is None
    for place, held in state["state"].items():
        for key in [key for key in held if key.rpartition(".")[2] != "step"]:
            damaged = copy.deepcopy(state)
            damaged["state"][place][key] = held[key].double()
            with pytest.raises(StateMismatchError, match="float64"):
                two.load_state_dict(damaged, strict=True)
