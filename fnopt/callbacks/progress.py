"""Progress: a live bar where a terminal shows it and rich is there, else one plain line each time."""

import importlib.util
import sys
import time
from typing import Protocol

import attrs

from ..types import Metrics
from .reporter import Reporter
from .rows import Row, of_kind
from .view import View


class Screen(Protocol):
    """Where progress is shown."""

    def line(self, text: str, /) -> None: ...
    def reading(self, reading: "Reading", /) -> None: ...
    def close(self) -> None: ...


@attrs.frozen
class Reading:
    """What the rows of several steps say together: how far the run is, and each figure as a text."""

    updates: int
    total: int
    figures: tuple[str, ...]
    pace: tuple[str, ...]


@attrs.frozen
class Plain:
    """A line on stdout each time."""

    def line(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)

    def reading(self, reading: Reading) -> None:
        """Print it as one line."""
        total = f"/{reading.total}" if reading.total else ""
        where = f"update {reading.updates:>{len(str(reading.total))}}{total}"
        print(where, *reading.figures, *reading.pace, sep="  ", flush=True)

    def close(self) -> None:
        """Nothing is left open."""


@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)  # fields are set at every step
class Progress(Reporter):
    """Show how a run goes: updates, epoch, figures, throughput, skipped steps, and the time to its end.

    unit     what the weight of the loss counts: "samples", "tokens"
    figures  names of metrics: the last value of `lr`, of others the mean by weight since the last time

    A live bar if stdout is a terminal and rich is there (extra `log`), else plain lines. The pace is that since the
    first step ended, validations and all; so it does not count what compiling took.

    >>> from fnopt import TrainState
    >>> state, metrics = TrainState.of({"w": torch.ones(1)}), {"loss": torch.tensor(0.5), "weight": torch.tensor(8.0)}
    >>> Progress(figures=("loss",), every=1).on_update(fnopt.callbacks.View(state, metrics, total=100))
    update   0/100  epoch 0  loss 0.500  skipped 0  ETA unknown
    """

    unit: str = attrs.field(default="samples", kw_only=True)
    figures: tuple[str, ...] = attrs.field(default=("loss", "lr", "grad_norm"), converter=tuple, kw_only=True)
    _total: int = attrs.field(init=False, repr=False, default=0)
    _skipped: int = attrs.field(init=False, repr=False, default=0)
    _first: tuple[float, int] | None = attrs.field(init=False, repr=False, default=None)  # when, and its updates
    _screen: Screen | None = attrs.field(init=False, repr=False, default=None)

    def on_update(self, view: View) -> None:
        """One more row; shown now if it is time."""
        self._total = view.total
        if self._first is None:
            self._first = time.monotonic(), view.updates  # waits for the device, this once
        Reporter.on_update(self, view)

    def wanted(self, metrics: Metrics) -> Metrics:
        """The figures, and what their means and the count of skips are made of: each number kept costs a step."""
        return {name: metrics[name] for name in (*self.figures, "weight", "skipped") if name in metrics}

    def on_save(self, view: View) -> None:
        """Nothing to show; the time that it took is no step's."""
        self.pause()

    def report(self, rows: list[Row]) -> None:
        """One reading of all steps among the rows, one line for each validation."""
        if self._screen is None:
            self._screen = _open()
        if updates := of_kind("update", rows):
            self._screen.reading(self._read(updates))
        for row in of_kind("validation", rows):
            self._screen.line(f"update {row['updates']}: {'  '.join(_measured(row))} (validation)")

    def close(self) -> None:
        """The end of a training: show what waits, and leave the terminal as it was."""
        try:
            Reporter.close(self)
        finally:
            if self._screen is not None:
                self._screen.close()
            self._screen = self._first = None

    def _read(self, rows: list[Row]) -> Reading:
        self._skipped += sum(row.get("skipped", 0) for row in rows)
        last = rows[-1]
        texts = [f"{name} {_mean(name, rows)}" for name in self.figures if name in last]
        pace = [*_rate(rows, self.unit), f"skipped {self._skipped}"]
        if self._total:
            pace.append(f"ETA {self._eta(last['updates'])}")
        return Reading(last["updates"], self._total, (f"epoch {last['epoch']}", *texts), tuple(pace))

    def _eta(self, updates: int) -> str:
        assert self._first is not None  # there are rows of updates only after on_update
        began, first = self._first
        done, left = updates - first, max(0, self._total - updates)
        return as_time((time.monotonic() - began) / done * left) if done > 0 else "unknown"


def _open() -> Screen:
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        from .live import Live

        return Live()
    return Plain()


def _mean(name: str, rows: list[Row]) -> str:
    if name == "lr" or name.startswith("lr/"):
        return f"{rows[-1][name]:.2e}"
    finite = [(row[name], row.get("weight", 1.0) or 0.0) for row in rows if row.get(name) is not None]
    weight = sum(weight for _, weight in finite)
    return as_number(sum(value * weight for value, weight in finite) / weight if weight else None)


def _rate(rows: list[Row], unit: str) -> list[str]:
    timed = [row for row in rows if row["seconds"] is not None and row.get("weight") is not None]
    seconds = sum(row["seconds"] for row in timed)
    return [f"{sum(row['weight'] for row in timed) / max(seconds, 1e-9):,.0f} {unit}/s"] if timed else []


def _measured(row: Row) -> list[str]:
    places = ("kind", "position", "updates", "epoch", "weight")
    return [f"{name} {as_number(value)}" for name, value in row.items() if name not in places]


def as_number(value: float | None) -> str:
    """A figure as people read it.

    >>> as_number(0.5), as_number(123456.0), as_number(0.00012), as_number(None)
    ('0.500', '1.23e+05', '1.20e-04', 'not finite')
    """
    if value is None:
        return "not finite"
    return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 1e5 else f"{value:.2e}"


def as_time(seconds: float) -> str:
    """A duration as people read it.

    >>> as_time(59.7), as_time(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
