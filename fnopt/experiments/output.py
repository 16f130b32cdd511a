"""What experiments leave: tables, rows of JSON, pictures that say what they show."""

import importlib.util
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

INK, PALE = "#333333", "#bbbbbb"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under their heads: the first to the left, numbers to the right.

    >>> print(table(["rule", "loss"], [["AdamW", "1.25"], ["SGD", "10.50"]]))
    rule    loss
    AdamW   1.25
    SGD    10.50
    """
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def shown(line: list[str]) -> str:
        first, *rest = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        return "  ".join([line[0].ljust(len(first)), *rest]).rstrip()

    return "\n".join(shown(line) for line in lines)


def megabytes(count: float) -> str:
    """Bytes as people read them.

    >>> megabytes(2_500_000), megabytes(1_300)
    ('2.5 MB', '0.0013 MB')
    """
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e6:.2g} MB"


def milliseconds(seconds: float) -> str:
    """A duration of one update.

    >>> milliseconds(0.0123456)
    '12.3 ms'
    """
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds * 1e3:,.0f} ms"


def threads(count: int | None = None) -> str:
    """So many threads, or those that torch has.

    >>> threads(1), threads(2)
    ('1 thread', '2 threads')
    """
    count = torch.get_num_threads() if count is None else count
    return f"{count} thread{'' if count == 1 else 's'}"


def smooth(values: Sequence[float]) -> list[float]:
    """The mean over a fortieth of all to both sides, at the ends over what is there, of what is finite; it is not late.

    >>> smooth([0.0, 1.0] * 20)[:2]
    [0.5, 0.3333333333333333]
    """
    reach = len(values) // 40
    around = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    finite = [[value for value in near if math.isfinite(value)] for near in around]
    return [sum(near) / len(near) if near else math.nan for near in finite]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line; None for what is not finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({name: _plain(item) for name, item in row.items()}) + "\n" for row in rows))


def _plain(item: Any) -> Any:
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return [_plain(each) for each in cast(list[Any], item)] if isinstance(item, list) else item


def picture(path: Path, draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """Draw into a figure of so many inches, and write it; its name, or what is missing to have it."""
    if not importlib.util.find_spec("matplotlib"):
        return f"{path.name} is not drawn, as matplotlib is missing: pip install 'fnopt[demo]'"
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=size, dpi=100, layout="constrained", facecolor="white")
    draw(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path.name


def dress(axes: Any, title: str, x: str, y: str) -> None:
    """A title, units on both axes, and no more lines than needed."""
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(color="#e8e8e8", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side not in ("top", "right"))
        spine.set_color(PALE)
