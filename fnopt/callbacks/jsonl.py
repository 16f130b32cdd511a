"""The log of a run: JSON, one object per line, of which none is lost or there twice, however often the run stopped."""

import json
import os
from pathlib import Path
from typing import cast

import attrs

from ..errors import FnoptError
from .reporter import Reporter
from .rows import KINDS, Row

Place = tuple[int, int]  # of a row in a run: its position, and the place of its kind in KINDS


class LogError(FnoptError, ValueError):
    """A log that is not what fnopt wrote."""


@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)  # fields are set at every step
class JsonlLog(Reporter):
    """A file with one JSON object per line, for each step and each validation (see `Reporter` for the names in them).

    A row replaces all that the file holds from its place in the run on. So a run that was stopped past its last
    checkpoint, and goes on from there, leaves the log of the uninterrupted run: nothing is to be resumed, and a log
    of another run in that file is replaced (give each run its own). Rows wait in memory for `every` steps; those up to
    a checkpoint are written when the trainer says that it is saved.

    >>> import tempfile
    >>> from fnopt import TrainState
    >>> folder, state = tempfile.TemporaryDirectory(), TrainState.of({"w": torch.ones(1)})
    >>> log = JsonlLog(Path(folder.name) / "log.jsonl", every=1)
    >>> log.on_update(fnopt.callbacks.View(state, {"loss": torch.tensor(0.5)}))
    >>> [(row["kind"], row["position"], row["loss"]) for row in read_rows(log.path)]
    [('update', 0, 0.5)]
    >>> folder.cleanup()

    Raises LogError if the file is there and is no such log.
    """

    path: Path = attrs.field(converter=Path)
    # where the next row begins, and the place of the one before: one tuple, so that Ctrl-C cannot part them
    _end: tuple[int, Place] | None = attrs.field(init=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        read_rows(self.path)  # a file that is something else is known at once

    def report(self, rows: list[Row]) -> None:
        """Write the rows in the place of all that is there from the first of them on."""
        begin, data = self._cut(place_of(rows[0])), _lines(rows)
        with self.path.open("r+b") as file:
            file.seek(begin)
            file.write(data)
            file.truncate()
        self._end = begin + len(data), place_of(rows[-1])

    def _cut(self, first: Place) -> int:
        """Where in the file a row of this place belongs; what comes later in the run is cut off."""
        if self._end is not None and self._end[1] < first:
            return self._end[0]
        kept = [row for row in read_rows(self.path) if place_of(row) < first]
        data, temporary = _lines(kept), self.path.with_name(self.path.name + ".new")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, self.path)
        return len(data)


def place_of(row: Row) -> Place:
    """Rows of a run have rising places."""
    return row["position"], KINDS.index(row["kind"])


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a log, none if there is no file; a last line that a crash cut off is left out.

    Raises LogError for a line that no log has.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        row: object = json.loads(line)
    except ValueError:
        row = None
    fields = cast(Row, row if isinstance(row, dict) else {})
    if fields.get("kind") not in KINDS or not isinstance(fields.get("position"), int):
        raise LogError(f"{path}: line {number} is not a row of a log that fnopt wrote; remove that line")
    return fields


def _lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
