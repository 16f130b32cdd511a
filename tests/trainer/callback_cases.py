"""Runs as callbacks see them: views of steps, without a trainer."""

import torch

from fnopt import TrainState, evolve
from fnopt.callbacks import View

STATE = TrainState.of({"w": torch.zeros(2)})


def view(position, total=0, validation=None, epoch=0, **metrics):
    """What is shown after the step at this position, of which each was an update."""
    state = evolve(STATE, position=position, updates=torch.tensor(position))
    numbers = {"loss": 1.0 / max(position, 1), "lr": 0.1, "grad_norm": 2.0, "weight": 4.0, **metrics}
    read = {name: torch.tensor(value) for name, value in numbers.items()}
    return View(state, read, epoch=epoch, total=total, validation=validation or {})


def run(callbacks, positions, validate=(), save=(), total=0):
    """Tell callbacks of steps at these positions, with validations and checkpoints after some of them."""
    for position in positions:
        for callback in callbacks:
            callback.on_update(view(position, total, skipped=0))
            if position in validate:
                callback.on_validate(view(position, total, {"loss": 1.0 / position}))
            if position in save:
                callback.on_save(view(position, total))
