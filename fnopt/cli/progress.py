"""Progress: a live line with rich where a terminal shows it, else one plain line each time."""

import importlib.util
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Protocol

import attrs

from .log import Row


class Progress(Protocol):
    """Shows the rows of a log as they come."""

    def show(self, rows: list[Row]) -> None: ...


@attrs.frozen
class Reading:
    """What the rows of several steps say together."""

    updates: int
    loss: float | None  # mean over the bytes; None where no step was finite
    bits_per_byte: float | None
    lr: float
    rate: float  # tokens, that is bytes, per second in steps

    @classmethod
    def of(cls, rows: list[Row]) -> "Reading":
        """One reading of one or more rows of updates."""
        finite = [row for row in rows if row["loss"] is not None]
        weight = sum(row["bytes"] for row in finite)

        def mean(name: str) -> float | None:
            return sum(row[name] * row["bytes"] for row in finite) / weight if weight else None

        seconds = sum(row["seconds"] for row in rows)
        rate = sum(row["bytes"] for row in rows) / max(seconds, 1e-9)
        return cls(rows[-1]["updates"], mean("loss"), mean("bits_per_byte"), rows[-1]["lr"], rate)

    def words(self) -> list[str]:
        """One text for each figure."""
        loss = f"loss {_number(self.loss)} ({_number(self.bits_per_byte)} bits/byte)"
        return [loss, f"lr {self.lr:.2e}", f"{self.rate:,.0f} tokens/s"]


@attrs.define
class Clock:
    """Skipped steps so far, and the time to the end at the pace since the start, validations and all."""

    total: int
    first: int
    skipped: int
    began: float = attrs.field(factory=time.monotonic)

    def read(self, rows: list[Row]) -> list[str]:
        """Take these rows in; one text for each figure."""
        self.skipped += sum(row["skipped"] for row in rows)
        done, left = rows[-1]["updates"] - self.first, self.total - rows[-1]["updates"]
        eta = as_time((time.monotonic() - self.began) / done * left) if done else "unknown"
        return [f"skipped {self.skipped}", f"ETA {eta}"]


@attrs.frozen
class Plain:
    """A line on stdout each time."""

    clock: Clock

    def show(self, rows: list[Row]) -> None:
        """Print one line for all updates among the rows, one for each validation."""
        if updates := of_kind("update", rows):
            reading = Reading.of(updates)
            where = f"{reading.updates:>{len(str(self.clock.total))}}/{self.clock.total}"
            print(f"update {where}", *reading.words(), *self.clock.read(updates), sep="  ", flush=True)
        for row in of_kind("validation", rows):
            print(validation_line(row), flush=True)


@contextmanager
def progress(total: int, first: int = 0, skipped: int = 0) -> Generator[Progress]:
    """Progress of updates `first` to `total`, live inside the block if stdout is a terminal and rich is there."""
    clock = Clock(total, first, skipped)
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        yield Plain(clock)
        return
    from .live import live

    with live(clock) as shown:
        yield shown


def of_kind(kind: str, rows: Iterable[Row]) -> list[Row]:
    """The rows of one kind."""
    return [row for row in rows if row["kind"] == kind]


def validation_line(row: Row) -> str:
    """One validation in words."""
    return f"update {row['updates']}: {_number(row['bits_per_byte'])} bits/byte on held-out text"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def as_time(seconds: float) -> str:
    """A duration as people read it.

    >>> as_time(59.7), as_time(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
