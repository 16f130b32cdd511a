"""Any scheduler, put into a pure optimizer: a Schedule, one of torch as what it will do, a plateau beside it."""

from typing import Any

import attrs
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..errors import HyperparameterError, UsageError
from ..schedules.plateaus import Plateau
from ..types import Schedule
from .clocks import Clock
from .optimizers import Pure, rules_of, with_values
from .plateaus import plateau_of
from .tables import tables_of


def scheduled(pure: Pure, scheduler: Any, given: Any, clock: Clock) -> tuple[Pure, Plateau | None, dict[str, Tensor]]:
    """The optimizer under a scheduler; where that is a plateau, also the plateau and its state.

    `given` is the optimizer as the user gave it, which a scheduler of torch must be attached to.
    """
    if scheduler is None:
        return pure, None, {}
    if isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
        _check_attached(scheduler, given)
    if isinstance(scheduler, ReduceLROnPlateau | Plateau):
        if clock.interval is not None:
            raise HyperparameterError(
                f'Trainer: scheduler_interval="{clock.interval}", and a plateau counts validations; leave it out'
            )
        return pure, *plateau_of(scheduler)
    if isinstance(scheduler, LRScheduler):
        optimizer = with_values(pure.optimizer, tables_of(scheduler, clock))
    else:
        rate = {"lr": clock.of(_schedule(scheduler, pure))}
        optimizer = with_values(pure.optimizer, [rate] * len(rules_of(pure.optimizer)))
    return attrs.evolve(pure, optimizer=optimizer), None, {}


def _schedule(scheduler: Any, pure: Pure) -> Schedule:
    if not isinstance(scheduler, Schedule) or isinstance(scheduler, type):
        raise UsageError(
            f"Trainer: scheduler is {scheduler!r}, expected a Schedule such as fnopt.cosine(…), fnopt.plateau(…), or "
            "one of torch.optim.lr_scheduler, attached to the optimizer"
        )
    rates = [rule.lr for rule in rules_of(pure.optimizer) if hasattr(rule, "lr")]
    if any(callable(rate) for rate in rates):
        raise HyperparameterError(
            "Trainer: the lr of the optimizer is a Schedule, got scheduler= as well, expected one of them"
        )
    if len(set(map(float, rates))) > 1:
        raise HyperparameterError(
            f"Trainer: one Schedule, and rules with the learning rates {rates}, expected one rate; give each rule its "
            "own Schedule as lr, and no scheduler"
        )
    return scheduler


def _check_attached(scheduler: Any, given: Any) -> None:
    if scheduler.optimizer is not given:
        raise UsageError(
            f"Trainer: {type(scheduler).__name__} is attached to another {type(scheduler.optimizer).__name__}, got "
            f"optimizer={type(given).__name__}, expected the same object; a pure optimizer takes a Schedule as its lr"
        )
