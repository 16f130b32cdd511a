"""Schedulers: torch's do in a Trainer what they do in a plain loop, on the clock that was named."""

import inspect
import warnings

import pytest
import torch
from torch.optim import lr_scheduler
from trainer_cases import Recorder, bits, model, trainer

import fnopt

MAKE = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.95),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 4),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 15)], [3]
    ),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 18, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 18),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=18),
}
OTHERS = {"LRScheduler", "_LRScheduler", "ReduceLROnPlateau"}  # bases; the one that follows a metric, below


def test_every_scheduler_of_torch_is_here():
    """A new one of torch fails here until it is tried."""
    kinds = {
        name
        for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler)
    }
    assert kinds - OTHERS == MAKE.keys()


def attached(name):
    own = model()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
    return own, optimizer, MAKE[name](optimizer)


def rates(scheduler, optimizer, count):
    """What torch's loop uses at each update."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            found.append(float(optimizer.param_groups[0]["lr"]))
            scheduler.step()
    return found


@pytest.mark.parametrize("name", MAKE)
def test_a_torch_scheduler_gives_its_own_rates(name):
    """At each of 18 updates the rate is that of torch's loop, and the user's scheduler has not moved."""
    own, optimizer, scheduler = attached(name)
    before = float(optimizer.param_groups[0]["lr"])
    made = trainer(model=own, optimizer=optimizer, scheduler=scheduler, callbacks=[seen := Recorder()])
    made.train()
    assert float(optimizer.param_groups[0]["lr"]) == before
    expected = rates(scheduler, optimizer, 18)
    assert [row["lr"] for row in seen.metrics] == pytest.approx(expected, rel=1e-6)
    assert f"scheduler: {name} counts updates" in str(made.plan())


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_momentum_follows_too(name):
    """Schedulers that cycle the momentum change the run by it: the rule's is a Schedule."""
    own, optimizer, scheduler = attached(name)
    made = trainer(model=own, optimizer=optimizer, scheduler=scheduler)
    assert callable(made.step.optimizer.momentum)
    last = rates(scheduler, optimizer, 6)[-1]
    assert last > 0
    assert float(made.step.optimizer.momentum(torch.tensor(6))) == pytest.approx(optimizer.param_groups[0]["momentum"])


def test_betas_follow_too():
    """Adam's first beta is its momentum."""
    own = model()
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=18)
    made = trainer(model=own, optimizer=optimizer, scheduler=scheduler)
    rates(scheduler, optimizer, 5)
    assert float(made.step.optimizer.betas[0](torch.tensor(5))) == pytest.approx(optimizer.param_groups[0]["betas"][0])
    made.train()


def test_the_clock_of_epochs_ticks_once_per_epoch():
    """With scheduler_interval="epoch" the rate stays through an epoch of 6 updates."""
    own, optimizer, _ = attached("ExponentialLR")
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    recorder = Recorder()
    given = {"model": own, "optimizer": optimizer, "scheduler": scheduler, "callbacks": [recorder]}
    trainer(**given, scheduler_interval="epoch").train()
    first = recorder.metrics[0]["lr"]
    assert [row["lr"] for row in recorder.metrics] == pytest.approx([first] * 6 + [first / 2] * 6 + [first / 4] * 6)


def test_a_scheduler_stands_still_on_a_skipped_update():
    """A batch that is not finite moves the data on, and no clock: the rates are those of the updates."""
    calls = []

    def poisoned(model, batch):
        calls.append(None)
        total = model(batch[0]).square().sum()
        return total * (float("nan") if len(calls) in (2, 3) else 1.0), len(batch[1])

    own, optimizer, scheduler = attached("ExponentialLR")
    recorder = Recorder()
    made = trainer(
        model=own, optimizer=optimizer, scheduler=scheduler, loss=poisoned, callbacks=[recorder], val_loader=None
    )
    made.train()
    assert (int(made.state.updates), made.state.position) == (18, 20)
    used = [row["lr"] for row in recorder.metrics if not row["skipped"]]
    assert used == pytest.approx(rates(scheduler, optimizer, 18), rel=1e-6)


def losses(values):
    """A loss whose validations give these numbers."""
    given = iter(values)

    def loss(model, batch):
        total = model(batch[0]).square().sum()
        if model.training:
            return total, len(batch[1])
        return total * 0 + next(given) * len(batch[1]), len(batch[1])

    return loss


VALUES = [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.2, 0.3]


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_plateau_follows_the_validation_loss(compile):
    """ReduceLROnPlateau lowers the rate after the validations after which torch's does."""
    own, optimizer, _ = attached("StepLR")
    optimizer.param_groups[0]["lr"] = 0.1
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    recorder = Recorder()
    held_out = fnopt.Batches(torch.utils.data.TensorDataset(torch.zeros(2, 4), torch.zeros(2)), 2)
    made = trainer(
        model=own,
        optimizer=optimizer,
        scheduler=scheduler,
        loss=losses(VALUES),
        val_loader=held_out,
        max_epochs=8,
        callbacks=[recorder],
        compile=compile,
    )
    made.train()
    expected = []
    for value in VALUES:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    assert [row["lr"] for row in recorder.metrics][::6] == pytest.approx(expected)
    assert len(set(expected)) > 2


def test_a_pure_plateau_is_one_too():
    """fnopt.plateau as scheduler, and resumed from its state in the checkpoint."""
    plan = fnopt.plateau(0.1, factor=0.5, patience=0)
    made = trainer(optimizer=fnopt.SGD(0.3), scheduler=plan, max_epochs=6)
    made.train()
    assert made.step.optimizer.lr <= 0.1
    assert float(made.state.extra["plateau/lr"]) <= 0.1


def test_a_schedule_counts_updates_or_epochs():
    """A Schedule as scheduler is the same as one for lr."""
    schedule = fnopt.cosine(0.1, steps=18)
    a, b = trainer(optimizer=fnopt.SGD(schedule)), trainer(optimizer=fnopt.SGD(0.5), scheduler=schedule)
    a.train()
    b.train()
    assert bits(a.state) == bits(b.state)
