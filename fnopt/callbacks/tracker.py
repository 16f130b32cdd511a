"""Tracker: one adapter for all services that take a dict of numbers and a step."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from ..errors import UsageError
from .reporter import Reporter
from .rows import Row

PREFIX = {"update": "train/", "validation": "val/"}


class TrackedRun(Protocol):
    """What `wandb.init(…)` and `trackio.init(…)` return; or anything that has this one method."""

    def log(self, data: dict[str, Any], /, *, step: int) -> Any: ...


@attrs.define(eq=False)
class Tracker(Reporter):
    """Log to Weights & Biases, trackio, or whatever has `log(dict, step=)`: `Tracker(wandb.init(project=…))`.

    Steps are logged as "train/loss", "train/lr", …, validations as "val/loss", …; the step is the position, which also
    counts skipped ones. What is not finite is logged as nan. To go on with a run there after a resume, give its id to
    `wandb.init(id=…, resume="allow")`; what was logged past the checkpoint stays as it was the first time.

    >>> from fnopt import TrainState
    >>> class Printer:
    ...     def log(self, data, step):
    ...         print(step, data["train/loss"])
    >>> tracker = Tracker(Printer(), every=1)
    >>> tracker.on_update(fnopt.callbacks.View(TrainState.of({"w": torch.ones(1)}), {"loss": torch.tensor(0.5)}))
    0 0.5

    Raises UsageError for an object without `log`.
    """

    run: TrackedRun

    def __attrs_post_init__(self) -> None:
        if not callable(getattr(self.run, "log", None)):
            raise UsageError(
                f"Tracker: run is {self.run!r}, expected an object with log(dict, step=…), such as wandb.init(…)"
            )

    def report(self, rows: list[Row]) -> None:
        """Log each row."""
        for row in rows:
            self.run.log(figures(row), step=row["position"])


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, under the names that plots of one kind share.

    >>> figures({"kind": "validation", "position": 3, "loss": None, "accuracy": 0.5})
    {'val/loss': nan, 'val/accuracy': 0.5}
    """
    prefix = PREFIX[row["kind"]]
    numbers = {name: value for name, value in row.items() if name not in ("kind", "position", "seconds")}
    return {prefix + name: math.nan if value is None else value for name, value in numbers.items()}
