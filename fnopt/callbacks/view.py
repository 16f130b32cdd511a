"""View: what a callback of `Trainer` is shown. It reads; behaviour belongs into transforms and the step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from ..state import TrainState
from ..types import Metrics


@attrs.frozen(eq=False)
class View:
    """A run at one moment.

    state       the TrainState after the step. It lives until the next step: `snapshot(view.state)` is a copy that stays
    metrics     what the step reported, 0-d tensors: reading one waits for the device, so read them where you print
    epoch       epochs begun and not ended, from 0: position // steps of an epoch
    total       updates that the whole run plans
    validation  what the last validation measured, floats by name; empty before the first
    trainer     whose run it is: `trainer.step`, `trainer.model`, `trainer.optimizer`, `trainer.plan()`
    path        the file that was written, of `on_save` only
    is_best     does `path` hold the best weights so far?

    >>> from fnopt import TrainState
    >>> import torch
    >>> view = View(TrainState.of({"w": torch.zeros(2)}), {"loss": torch.tensor(0.5)}, total=10)
    >>> view.updates, view.position, view.metrics["loss"].item()
    (0, 0, 0.5)
    """

    state: TrainState
    metrics: Metrics
    epoch: int = 0
    total: int = 0
    validation: Mapping[str, float] = attrs.field(factory=dict[str, float])
    trainer: Any = None
    path: Path | None = None
    is_best: bool = False

    @property
    def updates(self) -> int:
        """Updates applied so far. Waits for the device; `position` does not."""
        return int(self.state.updates)

    @property
    def position(self) -> int:
        """Steps so far, also skipped ones."""
        return self.state.position


class Callback(Protocol):
    """An object with any of three methods; those that it lacks are not called.

    on_update    after every step, also a skipped one
    on_validate  after every validation; True asks the trainer to stop
    on_save      after every checkpoint
    """

    def on_update(self, view: View, /) -> None: ...
    def on_validate(self, view: View, /) -> bool | None: ...
    def on_save(self, view: View, /) -> None: ...
