"""What `sweep` came to: its cells, its clocks, the table and the heat map."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from .output import INK, dress, milliseconds, picture, smooth, table


@attrs.frozen
class Cell:
    """One setting: the peak of the learning rate, the weight decay, and the threshold of the clip."""

    lr: float
    weight_decay: float
    clip: float

    def __str__(self) -> str:
        return f"lr {self.lr:g}, weight decay {self.weight_decay:g}, clip {self.clip:g}"


@attrs.frozen
class Run:
    """What one cell came to: the loss of each update (nan where none was), and of the held-out batches at the end."""

    cell: Cell
    losses: list[float]
    held_out: float
    skipped: int


@attrs.frozen
class Clock:
    """How long a way of doing it takes.

    runs     that were made, of all
    first    seconds of the first update, with what was compiled
    update   median seconds of the later ones
    whole    seconds of all runs: the first update, and for each later one the median
    apart    the median difference of a held-out loss from that of the ensemble, in nats
    """

    name: str
    runs: int
    first: float
    update: float
    whole: float
    apart: float = 0.0


@attrs.frozen
class Sweep:
    """The runs, in the order of the grid, and the clocks: that of the ensemble is the first."""

    about: str
    runs: list[Run]
    clocks: list[Clock]

    @property
    def best(self) -> Run:
        """The cell with the least loss on held-out batches."""
        return min(self.runs, key=lambda run: run.held_out if math.isfinite(run.held_out) else math.inf)

    def __str__(self) -> str:
        best = self.best
        return "\n\n".join(
            [
                self.about,
                *(self._panel(clip) for clip in self.axis("clip")),
                f"* best: {best.cell}: {best.held_out:.4f}",
                table(["", "runs made", "first update", "later updates", "all runs", "differs by"], self._times()),
                LEGEND,
            ]
        )

    def axis(self, name: str) -> list[float]:
        """The values of one hyperparameter."""
        return list(dict.fromkeys(getattr(run.cell, name) for run in self.runs))

    def at(self, clip: float) -> list[list[float]]:
        """The held-out losses of one threshold, by weight decay and learning rate."""
        found = {run.cell: run.held_out for run in self.runs}
        return [[found[Cell(lr, decay, clip)] for lr in self.axis("lr")] for decay in self.axis("weight_decay")]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each cell, and for each clock."""
        cells = [{"kind": "cell", **attrs.asdict(run.cell), **attrs.asdict(run)} for run in self.runs]
        for row in cells:
            del row["cell"]
        return [*cells, *({"kind": "clock", **attrs.asdict(clock)} for clock in self.clocks)]

    def draw(self, path: Path) -> str:
        """Heat maps, a line of them for all thresholds, and under them the curves."""
        return picture(path, self._draw, (max(9, 4 * len(self.axis("clip"))), 8))

    def _panel(self, clip: float) -> str:
        best, rates = self.best.cell, self.axis("lr")
        rows: list[list[str]] = []
        for decay, losses in zip(self.axis("weight_decay"), self.at(clip), strict=True):
            stars = ["*" if Cell(lr, decay, clip) == best else " " for lr in rates]
            cells = [f"{shown(loss)}{star}" for loss, star in zip(losses, stars, strict=True)]
            rows.append([f"weight decay {decay:g}", *cells])
        return table([f"clip {clip:g}; lr:", *(f"{lr:g} " for lr in rates)], rows)

    def _times(self) -> Iterator[list[str]]:
        total = len(self.runs)
        for clock in self.clocks:
            made = str(total) if clock.runs == total else f"{clock.runs} of {total}"
            whole = f"{clock.whole:.1f} s" if clock.runs == total else f"about {clock.whole:.1f} s"
            apart = "" if clock is self.clocks[0] else f"{clock.apart:.1e}"
            yield [clock.name, made, f"{clock.first:.2f} s", milliseconds(clock.update), whole, apart]

    def _draw(self, figure: Any) -> None:
        maps, below = figure.subfigures(2, 1, height_ratios=(5, 4))
        clips = self.axis("clip")
        finite = sorted(run.held_out for run in self.runs if math.isfinite(run.held_out)) or [0.0, 1.0]
        low, high = finite[0], finite[int(0.75 * (len(finite) - 1))]  # what diverged would leave no colours to the rest
        panels = maps.subplots(1, len(clips), squeeze=False)[0]
        image: Any = None
        for clip, axes in zip(clips, panels, strict=True):
            image = self._draw_map(axes, clip, low, max(high, low + 1e-6))
        maps.colorbar(image, ax=list(panels), label="held-out loss (nats)", extend="max")
        curves, times = below.subplots(1, 2, width_ratios=(3, 2))
        self._draw_curves(curves)
        self._draw_times(times)

    def _draw_map(self, axes: Any, clip: float, low: float, high: float) -> Any:
        rates, decays, losses = self.axis("lr"), self.axis("weight_decay"), self.at(clip)
        image = axes.imshow(losses, cmap="viridis_r", vmin=low, vmax=high, aspect="auto")
        axes.set_facecolor("#dddddd")  # what is not finite has no colour
        best = self.best.cell
        for row, decay in enumerate(decays):
            for column, lr in enumerate(rates):
                loss, is_best = losses[row][column], Cell(lr, decay, clip) == best
                dark = math.isfinite(loss) and loss - low > (high - low) / 2
                text = {"color": "white" if dark else INK, "weight": "bold" if is_best else "normal", "fontsize": 9}
                axes.text(column, row, shown(loss) + ("*" if is_best else ""), ha="center", va="center", **text)
        dress(axes, f"clip at norm {clip:g}", "learning rate (peak)", "weight decay")
        axes.grid(visible=False)
        axes.set_xticks(range(len(rates)), [f"{lr:.2g}" for lr in rates])
        axes.set_yticks(range(len(decays)), [f"{decay:g}" for decay in decays])
        return image

    def _draw_curves(self, axes: Any) -> None:
        from matplotlib import colormaps

        rates = self.axis("lr")
        for run in self.runs:
            color = colormaps["viridis"](rates.index(run.cell.lr) / max(1, len(rates) - 1))
            label = f"lr {run.cell.lr:.2g}" if run is next(r for r in self.runs if r.cell.lr == run.cell.lr) else None
            axes.plot(range(1, len(run.losses) + 1), smooth(run.losses), color=color, lw=0.9, alpha=0.7, label=label)
        best, beginning = smooth(self.best.losses), max(run.losses[0] for run in self.runs)
        axes.plot(range(1, len(best) + 1), best, color="C3", lw=2.0, label="best")
        axes.set_ylim(min(best) - 0.1 * (beginning - min(best)), 1.02 * beginning)
        dress(axes, "training loss of all runs, smoothed", "updates", "loss (nats)")
        axes.legend(frameon=False, ncols=2, fontsize=8)

    def _draw_times(self, axes: Any) -> None:
        total = len(self.runs)
        names = [clock.name + ("" if clock.runs == total else f"\n(from {clock.runs} runs)") for clock in self.clocks]
        bars = axes.barh(names, [clock.whole for clock in self.clocks], color=["C0", *["C1"] * (len(names) - 1)])
        axes.bar_label(bars, [f"{clock.whole:.3g} s" for clock in self.clocks], padding=4)
        dress(axes, f"time of all {total} runs", "seconds, with what was compiled", "")
        axes.margins(x=0.35)
        axes.locator_params(axis="x", nbins=4)
        axes.invert_yaxis()


LEGEND = """\
first update: with what is compiled, once; later ones: their median; all runs: the first, and that median
  for each later one; differs by: median difference of a held-out loss from that of the ensemble, as training at high
  rates makes much of a last bit"""


def shown(loss: float) -> str:
    """A loss in a cell.

    >>> shown(1.23456), shown(float("nan"))
    ('1.235', 'none')
    """
    return f"{loss:.3f}" if math.isfinite(loss) else "none"
