"""Reporter: what all callbacks have in common that tell somebody how a run goes."""

import time

import attrs

from ..record import count
from ..types import Metrics
from .rows import Row, plain, update_row, validation_row
from .view import View


@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)  # fields are set at every step
class Reporter:
    """Collects a row for each step and each validation, and hands them to `report`, many at a time.

    Nobody waits for the device until rows are reported: every `every` steps, at the last one, at a validation, at a
    checkpoint, and at `close`. For a reporter of your own, write `report(rows)`; a row is a dict of numbers, in which
    what is not finite is None:

    kind "update"      position, updates, epoch, all metrics of the step, seconds (None of the first step)
    kind "validation"  position, updates, epoch, and what was measured

    >>> import torch
    >>> from fnopt import TrainState
    >>> class Loss(Reporter):
    ...     def report(self, rows):
    ...         print([row["loss"] for row in rows])
    >>> losses, state = Loss(every=2), TrainState.of({"w": torch.ones(1)})
    >>> for position, loss in enumerate((0.5, 0.25), start=1):
    ...     state = fnopt.evolve(state, position=position)
    ...     losses.on_update(fnopt.callbacks.View(state, {"loss": torch.tensor(loss)}))
    [0.5, 0.25]

    Raises HyperparameterError for an `every` that is no int >= 1.
    """

    every: int = attrs.field(default=50, validator=count, kw_only=True)
    _waiting: list[Row] = attrs.field(init=False, repr=False, factory=list[Row])
    _since: float | None = attrs.field(init=False, repr=False, default=None)  # the end of the last event

    def report(self, rows: list[Row], /) -> None:
        """Tell somebody. Interrupted, it is called again with the same rows, and maybe more."""
        raise NotImplementedError(f"{type(self).__name__}: write report(rows), which is what a Reporter is for")

    def on_update(self, view: View) -> None:
        """One more row; reported now if it is time."""
        seconds = None if self._since is None else time.perf_counter() - self._since
        self._waiting.append(update_row(view, self.wanted(view.metrics), seconds))
        if view.position % self.every == 0 or 0 < view.total <= view.position:
            self.flush()
        self._since = time.perf_counter()

    def wanted(self, metrics: Metrics) -> Metrics:
        """What of a step is kept until it is reported: all, unless a reporter needs less."""
        return metrics

    def on_validate(self, view: View) -> None:
        """One more row, reported now with all that wait; the time that it took is no step's."""
        self._waiting.append(validation_row(view))
        self.flush()
        self.pause()

    def on_save(self, view: View) -> None:
        """Report what waits, so that rows are not behind the checkpoint."""
        self.flush()
        self.pause()

    def pause(self) -> None:
        """From now on counts the time of the next step; that of the first, which may compile, never counts."""
        if self._since is not None:
            self._since = time.perf_counter()

    def flush(self) -> None:
        """Report what waits."""
        if self._waiting:
            self.report(plain(self._waiting))
            self._waiting = []

    def close(self) -> None:
        """The end of a training, which may go on later: report what waits."""
        self.flush()
        self._since = None
