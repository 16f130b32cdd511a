"""`curves`: the logs of runs on top of each other: loss, learning rate, gradient norm, loss scale, skipped updates."""

import statistics
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import attrs

from ..callbacks import TensorBoard, read_rows
from ..callbacks.rows import Row, of_kind
from ..errors import FnoptError
from .output import dress, picture, smooth, table

LOG = "log.jsonl"


class CurvesError(FnoptError, ValueError):
    """A run without a log, or a log without a row that can be drawn."""


@attrs.frozen
class Logged:
    """The rows of one run, and what it is called."""

    name: str
    updates: list[Row]
    validations: list[Row]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Position and value of every step that has this figure; what was not finite is left out."""
        found = [(row["position"], row[name]) for row in self.updates if row.get(name) is not None]
        return [place for place, _ in found], [value for _, value in found]

    def validated(self) -> tuple[list[int], list[float]]:
        """Position and loss of every validation, in the unit of the steps' loss."""
        found = [(row["position"], row["loss"]) for row in self.validations if row.get("loss") is not None]
        return [place for place, _ in found], [loss for _, loss in found]

    @property
    def skipped(self) -> int:
        """How many steps made no update."""
        return sum(int(row.get("skipped") or 0) for row in self.updates)


@attrs.frozen
class Curves:
    """Several runs."""

    runs: list[Logged]

    def __str__(self) -> str:
        head = ["run", "steps", "skipped", "first loss", "last loss", "best validation", "at step", "s per step"]
        return table(head, [[_text(cell) for cell in row.values()] for row in self.rows()])

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run; the last loss is the mean over the last tenth of its steps."""
        return [_summary(run) for run in self.runs]

    def draw(self, path: Path) -> str:
        """A picture with a panel for each figure that a run has."""
        panels = [panel for panel in PANELS if any(run.series(panel[0])[1] for run in self.runs)]
        return picture(path, lambda figure: self._draw(figure, panels), (10, 3.2 + 1.7 * len(panels)))

    def _draw(self, figure: Any, panels: list[tuple[str, str, str]]) -> None:
        heights = [2.4 if name == "loss" else 1.0 for name, _, _ in panels]
        column = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for (name, label, scale), axes in zip(panels, column, strict=True):
            for place, run in enumerate(self.runs):
                _draw_series(axes, run, name, {"color": f"C{place % 10}", "ls": LINES[place % len(LINES)]})
            dress(axes, "", "steps" if axes is column[-1] else "", label)
            _scale(axes, scale)
        column[0].set_title("logged runs; dots: validations", loc="left", fontsize=11)
        column[0].legend(frameon=False, fontsize=9)

    def export(self, folder: Path) -> list[Path]:
        """Write each run as event files for TensorBoard, in a folder of its name."""
        return [_exported(run, folder / run.name) for run in self.runs]


LINES = ("-", (0, (5, 2)), (0, (1, 1)))  # so that runs on top of each other are seen
PANELS = (
    ("loss", "loss (nats)", "linear"),
    ("lr", "learning rate", "linear"),
    ("grad_norm", "gradient norm", "log"),
    ("loss_scale", "loss scale", "log2"),
    ("skipped", "skipped in all", "count"),
)


def curves(paths: Sequence[Path]) -> Curves:
    """The runs of these folders, or logs.

    Raises CurvesError where there is no log or nothing in it, LogError for a line that is none of a log.
    """
    files = [path / LOG if path.is_dir() else path for path in paths]
    names = [file.parent.name if file.name == LOG else file.stem for file in files]
    unique = [name if names.count(name) == 1 else str(file.parent) for name, file in zip(names, files, strict=True)]
    return Curves([_read(file, name.strip("/").replace("/", "-")) for file, name in zip(files, unique, strict=True)])


def _read(file: Path, name: str) -> Logged:
    if not file.is_file():
        what = f"a folder without {LOG}" if file.name == LOG and file.parent.is_dir() else "no such file or folder"
        raise CurvesError(f"{file}: expected the log of a run, got {what}; name the folder of a run, or its {LOG}")
    rows = read_rows(file)
    updates, validations = of_kind("update", rows), of_kind("validation", rows)
    if not any(row.get("loss") is not None for row in updates):
        what = f"{len(updates)} steps, none of which has a finite loss" if updates else "no step yet"
        raise CurvesError(f"{file}: expected steps to draw, got {what}; leave this run out")
    return Logged(name or "run", updates, validations)


def _summary(run: Logged) -> dict[str, Any]:
    _, losses = run.series("loss")
    _, seconds = run.series("seconds")
    places, validated = run.validated()
    best = min(validated, default=None)
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "run": run.name,
        "steps": len(run.updates),
        "skipped": run.skipped,
        "first_loss": losses[0],
        "last_loss": sum(tail) / len(tail),
        "best_validation": best,
        "at_step": None if best is None else places[validated.index(best)],
        "seconds_per_step": statistics.median(seconds) if seconds else None,
    }


def _text(cell: Any) -> str:
    return "" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def _draw_series(axes: Any, run: Logged, name: str, look: dict[str, Any]) -> None:
    steps, values = run.series(name)
    if name == "skipped":
        axes.step(steps, list(accumulate(values)), where="post", lw=1.4, **look)
    elif name in ("loss", "grad_norm"):
        axes.plot(steps, values, color=look["color"], lw=0.7, alpha=0.3)
        axes.plot(steps, smooth(values), lw=1.8, label=run.name, **look)
    else:
        axes.plot(steps, values, lw=1.6, **look)
    if name == "loss":
        axes.plot(*run.validated(), "o", color=look["color"], ms=5, mec="white")


def _scale(axes: Any, scale: str) -> None:
    if scale == "log":
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif scale == "log2":
        axes.set_yscale("log", base=2)
    elif scale == "count":
        axes.set_ylim(bottom=-0.05 * max(1.0, axes.get_ylim()[1]), top=max(1.0, axes.get_ylim()[1] * 1.05))
        axes.yaxis.get_major_locator().set_params(integer=True)


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


def _exported(run: Logged, folder: Path) -> Path:
    try:
        board = TensorBoard(folder)
    except ImportError as error:  # its sentence has the line that installs it
        raise CurvesError(str(error)) from None
    board.report(sorted([*run.updates, *run.validations], key=lambda row: row["position"]))
    board.close()
    return folder
