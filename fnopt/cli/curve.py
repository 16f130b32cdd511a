"""The curve of a run as a picture; needs matplotlib."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..callbacks.rows import KINDS, Row, of_kind

INK, TRAIN, HELD_OUT, LR = "#333333", "#4c78a8", "#d1495b", "#8a8a8a"


def draw(rows: list[Row], path: Path, title: str) -> None:
    """Bits per byte of training and held-out text on the left axis, the learning rate on the right, over updates."""
    figure: Any = Figure(figsize=(9, 5), dpi=130, layout="constrained", facecolor="white")  # its types are partial
    left = figure.subplots()
    right = left.twinx()
    updates, validations = ([row for row in of_kind(kind, rows) if row["bits_per_byte"] is not None] for kind in KINDS)
    steps = [row["updates"] for row in updates]
    bits = [row["bits_per_byte"] for row in updates]

    right.plot(steps, [row["lr"] for row in updates], color=LR, lw=1.2, ls=(0, (4, 3)), label="learning rate (right)")
    left.plot(steps, bits, color=TRAIN, lw=0.8, alpha=0.3)
    left.plot(steps, _smooth(bits), color=TRAIN, lw=1.8, label="training text, smoothed")
    where, held_out = [row["updates"] for row in validations], [row["bits_per_byte"] for row in validations]
    left.plot(
        where, held_out, color=HELD_OUT, lw=1.8, marker="o", ms=5, mec="white", label="held-out text, averaged weights"
    )
    if held_out:
        left.annotate(f"{held_out[-1]:.3f}", (where[-1], held_out[-1]), (0, 9), textcoords="offset points",
                      ha="right", color=HELD_OUT, weight="bold")  # fmt: skip
    _dress(left, right, title)
    figure.savefig(path)


def _dress(left: Any, right: Any, title: str) -> None:
    left.set_title(title, loc="left", color=INK, fontsize=12, pad=12)
    left.set_xlabel("updates", color=INK)
    left.set_ylabel("bits per byte", color=INK)
    right.set_ylabel("learning rate", color=LR)
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    right.set_ylim(bottom=0)
    left.set_zorder(right.get_zorder() + 1)
    left.patch.set_visible(False)
    left.grid(color="#e8e8e8", lw=0.8)
    left.margins(x=0.02)
    for axes in (left, right):
        axes.spines["top"].set_visible(False)
        axes.tick_params(colors=INK if axes is left else LR)
        for spine in axes.spines.values():
            spine.set_color("#bbbbbb")
    handles = [*left.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    left.legend(handles=handles, loc="upper right", frameon=False, labelcolor=INK)


def _smooth(values: list[float], memory: float = 0.8) -> list[float]:
    """An exponential moving average without the pull of its first value."""
    smoothed: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = memory * total + (1 - memory) * value, memory * weight + 1 - memory
        smoothed.append(total / weight)
    return smoothed
