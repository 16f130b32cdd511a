"""LRSweep: what `lr_finder` found, and its picture."""

import os
from collections.abc import Sequence
from typing import Any

import attrs

INK, LOSS, MARK = "#333333", "#4c78a8", "#d1495b"


@attrs.frozen
class LRSweep:
    """The losses of a sweep over learning rates.

    lrs         the rate of each update, rising
    losses      the loss that each update was made from
    smoothed    those, as means over up to a tenth of the sweep around each, so that nothing lags behind its rate
    suggestion  the rate where `smoothed` falls fastest over the logarithm of the rate; None if it never falls
    diverged    did the sweep end before its highest rate?

    >>> LRSweep.of([0.001, 0.01, 0.1, 1.0], [4.0, 3.9, 3.0, 9.0], diverged=True)
    LRSweep(suggestion=0.01, diverged=True)
    """

    lrs: tuple[float, ...] = attrs.field(repr=False)
    losses: tuple[float, ...] = attrs.field(repr=False)
    smoothed: tuple[float, ...] = attrs.field(repr=False)
    suggestion: float | None
    diverged: bool

    @classmethod
    def of(cls, lrs: Sequence[float], losses: Sequence[float], diverged: bool) -> "LRSweep":
        """The sweep with these losses."""
        reach = len(losses) // 20
        smoothed = tuple(_mean(losses, place, reach) for place in range(len(losses)))
        place = _steepest(smoothed, max(1, reach))
        return cls(tuple(lrs), tuple(losses), smoothed, None if place is None else lrs[place], diverged)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Write the losses over the learning rate as a picture: PNG, SVG or PDF, by the ending of the path.

        Raises ImportError where matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            text = "LRSweep.draw: matplotlib, which draws, is not installed: pip install 'fnopt[demo]'"
            raise ImportError(text) from error
        figure: Any = Figure(
            figsize=(8, 4.5), dpi=130, layout="constrained", facecolor="white"
        )  # its types are partial
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses, color=LOSS, lw=0.8, alpha=0.35, label="loss")
        axes.plot(self.lrs, self.smoothed, color=LOSS, lw=1.8, label="smoothed")
        if self.suggestion is not None:
            height = self.smoothed[self.lrs.index(self.suggestion)]
            label = f"steepest: {self.suggestion:.2e}"
            axes.plot([self.suggestion], [height], color=MARK, ls="none", marker="o", ms=7, mec="white", label=label)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate", color=INK)
        axes.set_ylabel("loss", color=INK)
        axes.grid(color="#e8e8e8", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, labelcolor=INK)
        figure.savefig(path)


def _mean(values: Sequence[float], place: int, reach: int) -> float:
    """The mean around a place, over as many to its left as to its right."""
    reach = min(reach, place, len(values) - 1 - place)
    around = values[place - reach : place + reach + 1]
    return sum(around) / len(around)


def _steepest(values: Sequence[float], reach: int) -> int | None:
    """Where the values fall most from `reach` places before to `reach` after, up to the least of them."""
    least = min(range(len(values)), key=values.__getitem__, default=-1)
    drops = [values[max(0, at - reach)] - values[min(at + reach, len(values) - 1)] for at in range(least + 1)]
    place = max(range(len(drops)), key=drops.__getitem__, default=None)
    return place if place is not None and drops[place] > 0 else None
