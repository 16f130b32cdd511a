"""The live line of progress; needs rich."""

from collections.abc import Generator
from contextlib import contextmanager

import attrs
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from .log import Row
from .progress import Clock, Reading, of_kind, validation_line


@attrs.frozen
class Live:
    """A bar and the last reading, in the 80 columns of any terminal; validations scroll by above."""

    bar: Bar
    task: TaskID
    clock: Clock

    def show(self, rows: list[Row]) -> None:
        """Redraw the bar for all updates among the rows, print a line for each validation."""
        if updates := of_kind("update", rows):
            reading = Reading.of(updates)
            loss, lr, *rest = (*reading.words(), *self.clock.read(updates))
            self.bar.update(self.task, completed=reading.updates, reading=f"{loss}  {lr}\n{'  '.join(rest)}")
        for row in of_kind("validation", rows):
            self.bar.console.print(validation_line(row), highlight=False)


@contextmanager
def live(clock: Clock) -> Generator[Live]:
    """The bar, on the terminal inside the block."""
    columns = (
        TextColumn("updates"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[reading]}"),
    )
    with Bar(*columns) as bar:
        task = bar.add_task("", total=clock.total, completed=clock.first, reading="the first steps …")
        yield Live(bar, task, clock)
