"""What a scheduler of torch will do in a run, as Schedules.

It is a function of how often it was stepped. So a copy of it is stepped through the run beforehand, on a copy of the
groups, and what it writes becomes a table: nothing waits for the device, a skipped update moves no clock, and a resumed
run has nothing to replay.
"""

import copy
import warnings
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import torch

from ..errors import HyperparameterError, UsageError
from ..tensors import precise
from .clocks import Clock, Table


def tables_of(scheduler: Any, clock: Clock) -> list[dict[str, Any]]:
    """For each group, what the scheduler will write, as Schedules."""
    rows = [_written(scheduler.optimizer.param_groups)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that the optimizer did not step
        own = _copy(scheduler)
        for tick in range(1, clock.ticks):
            try:
                own.step()
            except ValueError as error:
                raise HyperparameterError(
                    f"Trainer: {type(scheduler).__name__} ends before the run, after {tick - 1} of {clock.ticks} "
                    f"{clock.interval or 'update'}s ({error}); make it as long, or choose scheduler_interval"
                ) from None
            rows.append(_written(own.optimizer.param_groups))
    return [_columns([row[place] for row in rows], clock) for place in range(len(rows[0]))]


def _copy(scheduler: Any) -> Any:
    """The scheduler on an optimizer without parameters: nothing that it does reaches the user's."""
    given = scheduler.optimizer
    groups = [{k: copy.deepcopy(v) for k, v in group.items() if k != "params"} for group in given.param_groups]
    stand_in = SimpleNamespace(
        param_groups=[{**group, "params": []} for group in groups], defaults=given.defaults, state={}, step=_no_step
    )
    try:
        return copy.deepcopy(scheduler, {id(given): stand_in})
    except TypeError as error:
        raise UsageError(
            f"Trainer: {type(scheduler).__name__} cannot be copied ({error}), which is how its values are known before "
            "the run; give a Schedule, a function of the step"
        ) from None


def _no_step() -> None:
    pass


def _written(groups: list[dict[str, Any]]) -> list[dict[str, tuple[float, ...]]]:
    """The numbers of groups that schedulers of torch write."""
    return [
        {key: _floats(group[key]) for key in ("lr", "momentum", "betas") if group.get(key) is not None}
        for group in groups
    ]


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(map(float, cast(Iterable[Any], value))) if isinstance(value, tuple | list) else (float(value),)


def _columns(rows: list[dict[str, tuple[float, ...]]], clock: Clock) -> dict[str, Any]:
    """Each number that changes as a Schedule, with those beside it."""
    changed: dict[str, Any] = {}
    for key, first in rows[0].items():
        if all(row[key] == first for row in rows):
            continue
        values = torch.tensor([row[key] for row in rows], dtype=precise(clock.device), device=clock.device)
        tables = tuple(clock.of(Table(column.contiguous())) for column in values.unbind(1))
        changed[key] = tables if key == "betas" else tables[0]
    return changed
