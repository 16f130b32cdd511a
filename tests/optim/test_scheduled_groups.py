"""A Schedule inside a TorchOptimizer: its value is shown in the group, and nobody writes it."""

import copy
import pickle

import pytest
import torch
from pure_cases import LABELS, SCHEDULE, gradients, mismatch, module, run
from strict_cases import assert_untouched

import fnopt
from fnopt import SGD, AdamW, ClipNorm, chain, ema, partition
from fnopt.errors import UsageError
from fnopt.optim import TorchOptimizer

pytestmark = pytest.mark.usefixtures("one_thread")
LINEAR = fnopt.linear(0.5, 0.1, steps=4)
RULES = {
    "rule": SGD(SCHEDULE, momentum=0.9),
    "chain": chain(ClipNorm(1.0), AdamW(SCHEDULE)),
    "ema": ema(chain(ClipNorm(1.0), SGD(SCHEDULE)), 0.9),
    "partition": partition({"x": SGD(SCHEDULE), "y": AdamW(SCHEDULE)}, LABELS),
}


def over(pure):
    model = module()
    return TorchOptimizer(model.named_parameters(), pure), model


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def at(step, schedule=SCHEDULE):
    return float(schedule(torch.tensor(step)))


@pytest.mark.parametrize("rule", RULES)
def test_the_group_shows_the_next_rate(rule):
    """Before each step group["lr"] is a float, the rate of that step; so it is what a client logs and what is used."""
    optimizer, model = over(RULES[rule])
    for time in range(12):
        assert rates(optimizer) == [at(time)] * len(optimizer.param_groups)
        assert all(type(rate) is float for rate in rates(optimizer))
        run(optimizer, model, range(time, time + 1))
    assert len({at(time) for time in range(12)}) > 8


def test_the_shown_rate_is_used():
    """Each step is one of a rule whose rate is the number that is shown."""
    optimizer, model = over(SGD(LINEAR))
    for time in range(6):
        (rate,) = rates(optimizer)
        expected = {name: p.detach() - rate * gradients(time)[name] for name, p in model.items()}
        run(optimizer, model, range(time, time + 1))
        for name, p in model.items():
            assert torch.allclose(p, expected[name], rtol=0.0, atol=2.0**-22 * float(expected[name].abs().max()))


def test_other_numbers_stay_writable():
    """Only what follows a Schedule is protected: any other number of the group is read at each step."""
    optimizer, model = over(SGD(SCHEDULE))
    optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.param_groups[0].update(momentum=0.0, note="kept")
    before = {name: p.detach().clone() for name, p in model.items()}
    optimizer.param_groups[0]["maximize"] = True
    run(optimizer, model, range(2))
    other, plain = over(SGD(SCHEDULE, weight_decay=0.5, maximize=True))
    run(other, plain, range(2))
    assert mismatch(model, plain) is None
    assert mismatch(model, before) is not None
    assert optimizer.param_groups[0]["note"] == "kept"


def write(group):
    group["lr"] = 0.7


def multiply(group):
    group["lr"] *= 0.5


def join(group):
    group |= {"lr": 0.7}


WRITES = {
    "item": write,
    "product": multiply,
    "update": lambda group: group.update({"lr": 0.7}),
    "update by keyword": lambda group: group.update(momentum=0.0, lr=0.7),
    "in-place union": join,
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("steps", [1, 4])
def test_writes_are_refused(how, steps):
    """Whatever way another lr is written is a UsageError that says what to do; the rate stays the Schedule's."""
    optimizer, model = over(SGD(SCHEDULE))
    run(optimizer, model, range(steps))
    with pytest.raises(UsageError, match="lr follows the Schedule"):
        WRITES[how](optimizer.param_groups[0])
    assert rates(optimizer) == [at(steps)]


@pytest.mark.parametrize("how", ["item", "update"])
def test_numbers_are_written_freely(how):
    """Negative control: where lr is a number, all ways to write it work."""
    optimizer, _ = over(SGD(0.5))
    WRITES[how](optimizer.param_groups[0])
    assert rates(optimizer) == [0.7]


SCHEDULERS = {
    "StepLR": lambda opt: torch.optim.lr_scheduler.StepLR(opt, 1),
    "LambdaLR": lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 0.9**t),
    "OneCycleLR": lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=10, cycle_momentum=False),
    "CosineAnnealingLR": lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_scheduler_of_torch_is_refused(kind):
    """A scheduler that writes lr, at once or at its first step, meets the same error; the rate stays the Schedule's."""
    optimizer, model = over(SGD(SCHEDULE))

    def train():
        scheduler = SCHEDULERS[kind](optimizer)
        run(optimizer, model, range(1))
        scheduler.step()

    with pytest.raises(UsageError, match="let a scheduler of torch write it"):
        train()
    assert rates(optimizer)[0] in (at(0), at(1))


def copies(optimizer, model):
    """The pair, in every way that a running optimizer is copied."""
    yield copy.deepcopy((optimizer, model))
    yield pickle.loads(pickle.dumps((optimizer, model)))
    other, fresh = over(RULES["chain"])
    fresh.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    yield other, fresh
    other, fresh = over(RULES["chain"])
    fresh.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()), strict=True)
    yield other, fresh


def test_copies_follow_the_schedule():
    """A deep copy, a pickle and a loaded state show the rate of their next step, follow it and refuse writes."""
    optimizer, model = over(RULES["chain"])
    run(optimizer, model, range(3))
    for other, copied in copies(optimizer, model):
        assert rates(other) == [at(3)]
        with pytest.raises(UsageError, match="lr follows the Schedule"):
            other.param_groups[0]["lr"] = 1.0
        run(other, copied, range(3, 5))
        assert rates(other) == [at(5)]
        expected, its = copy.deepcopy((optimizer, model))
        run(expected, its, range(3, 5))
        assert mismatch(copied, its) is None


def test_a_state_dict_is_plain():
    """A state_dict holds a plain dict with the number shown; writing into it changes no optimizer."""
    optimizer, model = over(SGD(SCHEDULE))
    run(optimizer, model, range(2))
    saved = optimizer.state_dict()
    assert type(saved["param_groups"][0]) is dict
    assert saved["param_groups"][0]["lr"] == at(2)
    before = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 7.0
    assert_untouched(before, optimizer.state_dict())


def test_loading_another_rate_changes_no_schedule():
    """A state saved under a fixed rate is taken, and the rate goes on to be the Schedule's."""
    fixed, model = over(SGD(7.0))
    run(fixed, model, range(2))
    optimizer, _ = over(SGD(SCHEDULE))
    optimizer.load_state_dict(copy.deepcopy(fixed.state_dict()))
    assert rates(optimizer) == [at(2)]


def test_an_added_group_follows_too():
    """A group that is added later shows the Schedule at its own number of updates."""
    optimizer, model = over(SGD(SCHEDULE))
    run(optimizer, model, range(3))
    optimizer.add_param_group({"params": [("late", torch.nn.Parameter(torch.ones(2, 2)))]})
    assert rates(optimizer) == [at(3), at(0)]
    with pytest.raises(UsageError, match="lr follows"):
        optimizer.param_groups[1]["lr"] = 1.0


def test_a_step_without_gradients_moves_no_schedule():
    """Where nothing was updated, the next rate is still this one."""
    optimizer, model = over(SGD(SCHEDULE))
    run(optimizer, model, range(1))
    for param in model.values():
        param.grad = None
    optimizer.step()
    assert rates(optimizer) == [at(1)]
