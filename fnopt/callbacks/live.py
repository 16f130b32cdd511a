"""The live bar of progress; needs rich."""

import weakref

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from .progress import Reading


class Live:
    """A bar and the last reading, in the 80 columns of any terminal; lines scroll by above."""

    def __init__(self) -> None:
        columns = BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[reading]}")
        self.bar = Bar(TextColumn("updates"), *columns)
        self.task = self.bar.add_task("", total=None, reading="")
        self.bar.start()
        self.close = weakref.finalize(self, self.bar.stop)  # a run that nobody closed still gives the cursor back

    def line(self, text: str) -> None:
        """Print it above the bar."""
        self.bar.console.print(text, highlight=False, markup=False)

    def reading(self, reading: Reading) -> None:
        """Redraw the bar."""
        text = f"{'  '.join(reading.figures)}\n{'  '.join(reading.pace)}"
        self.bar.update(self.task, completed=reading.updates, total=reading.total or None, reading=text)
