"""Every learning-rate scheduler of torch drives the optimizers as it drives torch's."""

import copy
import inspect

import pytest
import torch
from contract_cases import SEVEN, agree, attempt, look, start, train, with_warnings
from torch.optim import lr_scheduler

pytestmark = pytest.mark.usefixtures("one_thread")


def chained(opt):
    """Two schedules multiplied."""
    return lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(opt, 0.5, 3), lr_scheduler.ExponentialLR(opt, 0.9)])


def in_sequence(opt):
    """A warm-up, then a decay."""
    parts = [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)]
    return lr_scheduler.SequentialLR(opt, parts, milestones=[3])


SCHEDULERS = {
    "LambdaLR": [lambda opt: lr_scheduler.LambdaLR(opt, lambda epoch: 0.9**epoch)],
    "MultiplicativeLR": [lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda epoch: 0.9)],
    "StepLR": [lambda opt: lr_scheduler.StepLR(opt, 3, 0.5)],
    "MultiStepLR": [lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5], 0.5)],
    "ConstantLR": [lambda opt: lr_scheduler.ConstantLR(opt, 0.5, 4)],
    "LinearLR": [lambda opt: lr_scheduler.LinearLR(opt, 0.1, 1.0, 4)],
    "ExponentialLR": [lambda opt: lr_scheduler.ExponentialLR(opt, 0.9)],
    "SequentialLR": [in_sequence],
    "PolynomialLR": [lambda opt: lr_scheduler.PolynomialLR(opt, 6, 2.0)],
    "CosineAnnealingLR": [lambda opt: lr_scheduler.CosineAnnealingLR(opt, 5, 1e-4)],
    "ChainedScheduler": [chained],
    "ReduceLROnPlateau": [lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5, cooldown=1)],
    "CyclicLR": [
        lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, 2, 3, cycle_momentum=False, mode="triangular2"),
        lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, 2, 3, base_momentum=0.5, max_momentum=0.8),
    ],
    "CosineAnnealingWarmRestarts": [lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3, 2)],
    "OneCycleLR": [
        lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, 10),
        lambda opt: lr_scheduler.OneCycleLR(opt, [0.1, 0.2], 10, cycle_momentum=False, three_phase=True),
    ],
}
CASES = [(kind, build) for kind, builds in SCHEDULERS.items() for build in builds]
LOSSES = [1.0, 0.9, 0.95, 0.97, 0.99, 1.0, 1.1, 1.2, 1.3, 1.3]


def two_groups(optim, name, flags=None):
    """An optimizer of two groups with learning rates of their own, momentum where there is any to cycle."""
    opt, params = start(optim, name, flags or ({"momentum": 0.9} if name == "SGD" else {}))
    opt.param_groups[0]["params"] = params[:1]
    opt.add_param_group({"params": params[1:], "lr": 0.2})
    return opt, params


def advance(scheduler, time):
    """One step of a scheduler, with a loss for the one that watches it."""
    scheduler.step(*([LOSSES[time]] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


def run(opt, params, scheduler, times):
    """Trains, and notes all that the groups hold after every step."""
    seen = []
    for time in times:
        train(opt, params, (time,))
        advance(scheduler, time)
        seen.append([{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups])
    return seen


def test_no_scheduler_is_forgotten():
    """The table holds every scheduler class of torch.optim.lr_scheduler, and no other."""
    base = lr_scheduler.LRScheduler
    classes = {name for name, cls in vars(lr_scheduler).items() if inspect.isclass(cls) and issubclass(cls, base)}
    assert classes - {"LRScheduler", "_LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize(("kind", "build"), CASES)
def test_a_scheduled_run(name, kind, build):
    """A scheduler writes the same learning rates and momenta into the groups, and the weights follow to the bit."""

    def script(optim):
        opt, params = two_groups(optim, name)
        return attempt(lambda: (run(opt, params, build(opt), range(9)), look(opt, params)))

    agree(script)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize(("kind", "build"), CASES)
def test_a_scheduled_run_resumed(name, kind, build):
    """Optimizer and scheduler saved in mid-run and loaded into new ones go on together."""

    def script(optim):
        opt, params = two_groups(optim, name)
        scheduler = build(opt)
        run(opt, params, scheduler, range(4))
        saved = copy.deepcopy((opt.state_dict(), scheduler.state_dict()))
        other = getattr(optim, name)([{"params": params[:1]}, {"params": params[1:]}], lr=0.5)
        if name == "SGD":
            other = optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.5, momentum=0.9)
        resumed = build(other)
        resumed.load_state_dict(saved[1])
        other.load_state_dict(saved[0])
        return run(other, params, resumed, range(4, 9)), look(other, params)

    agree(script)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_a_tensor_lr_is_filled_by_a_scheduler(name):
    """A scheduler fills an lr tensor in place, in each group its own, and the steps follow."""

    def script(optim):
        opt, params = two_groups(optim, name, {"lr": torch.tensor(0.1)})
        scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
        return run(opt, params, scheduler, range(4)), look(opt, params)

    agree(script)


def test_a_scheduler_before_the_first_step():
    """A scheduler stepped before the optimizer gives torch's warning, and stepped after it none."""

    def script(optim):
        opt, params = two_groups(optim, "AdamW")
        scheduler = lr_scheduler.StepLR(opt, 1)
        early = with_warnings(scheduler.step)[1]
        opt, params = two_groups(optim, "AdamW")
        scheduler = lr_scheduler.StepLR(opt, 1)
        train(opt, params, (0,))
        return early, with_warnings(scheduler.step)[1], opt._opt_called

    early, late, _ = agree(script)
    assert len(early) == 1
    assert not late


def test_a_scheduler_counts_steps_once():
    """The schedulers' wrapper around `step` sits on the instance, and hooks still run once."""

    def script(optim):
        log = []
        opt, params = two_groups(optim, "AdamW")
        opt.register_step_post_hook(lambda *args: log.append(len(args)))
        schedulers = [lr_scheduler.StepLR(opt, 1), lr_scheduler.ExponentialLR(opt, 0.9)]
        for scheduler in schedulers:
            run(opt, params, scheduler, range(2))
        return log, "step" in vars(opt), look(opt, params)

    log, *_ = agree(script)
    assert len(log) == 4


def test_a_group_added_under_a_scheduler():
    """A group added while a scheduler runs is scheduled, or fails, as in torch."""

    def script(optim):
        opt, params = start(optim, "SGD", {"lr": 0.1})
        scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
        train(opt, params, (0,))
        scheduler.step()
        fresh = torch.nn.Parameter(torch.ones(2))
        opt.add_param_group({"params": [fresh], "lr": 0.7})
        train(opt, [*params, fresh], (1,))
        return attempt(scheduler.step), look(opt, [*params, fresh])

    agree(script)
