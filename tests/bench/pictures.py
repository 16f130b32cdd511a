"""The figures of README: what `all.py` and `reliability.py` measured, drawn from the files beside them.

    python tests/bench/pictures.py

Draws docs/figures/speed.png and docs/figures/safety.png; measures nothing.
"""

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
FNOPT, PEER = "C0", "C1"


def main() -> None:
    """Draw both."""
    with plt.style.context(DOCS / "figures.mplstyle"):
        speed(json.loads((HERE / "figures.json").read_text()), DOCS / "figures" / "speed.png")
        safety(json.loads((HERE / "reliability.json").read_text()), DOCS / "figures" / "safety.png")


def speed(found: dict[str, Any], path: Path) -> None:
    """Every ratio of two times, with its range over processes: those that are not met among them."""
    rows = [row for row in found.values() if row["unit"] == "ms" and not row["peer"].startswith("one ")]
    rows.sort(key=lambda row: -median(run["ratio"] for run in row["runs"]))
    figure, axes = plt.subplots(figsize=(9, 0.27 * len(rows) + 1))
    for place, row in enumerate(rows):
        ratios = [run["ratio"] for run in row["runs"]]
        colour = FNOPT if median(ratios) <= 1 else PEER
        axes.plot([min(ratios), max(ratios)], [place, place], color=colour, linewidth=2)
        axes.plot(median(ratios), place, "o", color=colour, markersize=5)
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row['what']}  |  {_short(row['peer'])}" for row in rows], fontsize=7)
    axes.set_xscale("log")
    axes.set_xticks([0.01, 0.03, 0.1, 0.3, 1, 2], ["1/100", "1/30", "1/10", "1/3", "as fast", "2 x"])
    axes.minorticks_off()
    axes.set_xlabel("time of fnopt over time of the peer, both in one run")
    axes.margins(y=0.01)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def safety(found: dict[str, Any], path: Path) -> None:
    """Of runs that were killed, how many left no file that loads; of damaged files, how many loaded all the same."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6))
    kills, damage = found["P1"], found["P4"]
    facts = kills["facts"]
    shares = {"fnopt": (facts["unreadable"], facts["kills"])}
    for name, text in kills["peers"].items():
        total, lost = re.match(r"of (\d+) kills", text), re.search(r"unreadable (\d+)", text)
        if total and lost:
            shares[name] = int(lost[1]), int(total[1])
    _bars(left, shares, "killed (SIGKILL) while it trains and saves:\nthe newest checkpoint cannot be read")
    damaged = damage["facts"]
    shares = {"fnopt": (damaged["silent"], damaged["flip"] + damaged["cut"] + damaged["block"])}
    for name, text in damage["peers"].items():
        if counted := re.match(r"([\d,]+) of ([\d,]+)", text):
            silent, total_files = (int(number.replace(",", "")) for number in counted.groups())
            shares[name] = silent, total_files
    _bars(right, shares, "a bit flipped, a block changed, the end cut:\nloads without an error, as something else")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axes: Any, shares: dict[str, tuple[int, int]], title: str) -> None:
    for place, (count, total) in enumerate(reversed(shares.values())):
        axes.barh(place, 100 * count / total, color=FNOPT if place == len(shares) - 1 else PEER)
        axes.text(100 * count / total + 1, place, f"{count:,} of {total:,}", va="center", fontsize=8)
    axes.set_yticks(range(len(shares)), list(reversed(shares)))
    axes.set_xlim(0, 125)
    axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
    axes.set_title(title, fontsize=9)


def _short(peer: str) -> str:
    return peer if len(peer) < 45 else peer[:44] + "…"


if __name__ == "__main__":
    main()
