"""Every speed claim, one script after another; keeps the medians as JSON and makes docs/benchmarks.md of them.

    python tests/bench/all.py [--processes 4] [--rounds 40] [--only-page]

Run it with nothing else on the machine, in an environment with the extra `bench`. A peer that is not installed is a row
that says so. About half an hour on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import Claim, row
from trainer_page import section

HERE = Path(__file__).parent
SCRIPTS = ("update", "whole_step", "members", "first_call", "overhead", "eager", "drop_in", "memory", "peers")
FIGURES, PAGE = HERE / "figures.json", HERE.parents[1] / "docs" / "benchmarks.md"
ABOUT = """# Benchmarks

Printed by `python tests/bench/all.py`; the medians of every process are in `tests/bench/figures.json`. A ratio is
fnopt's time over the peer's (below 1: fnopt is faster), as the median over processes, with its range; each process
measured both sides in turns, in the same state of malloc, with the same threads. What was not compiled is refused. CPU
only: no GPU was there to run it on.

What bounds the rows that are not met: 32 MLPs on one thread are mostly matrix products, and GPT in fp32 is the same
matrix products on both sides; the chain and 100 M parameters are memory bandwidth for both; a first call with 1,000
tensors is a trace of what the gradient function does to each; the eager update writes every intermediate result to
memory, where torch writes in place.

| what | against | target | ratio | fnopt | peer |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="4")
    parser.add_argument("--rounds", default="40")
    parser.add_argument("--only-page", action="store_true", help="from the figures that are there")
    typed = parser.parse_args()
    if not typed.only_page:
        FIGURES.unlink(missing_ok=True)
        for script in SCRIPTS:
            options = ["--processes", typed.processes, "--rounds", typed.rounds, "--json", str(FIGURES)]
            subprocess.run([sys.executable, str(HERE / f"{script}.py"), *options], check=True)
    PAGE.write_text(page(json.loads(FIGURES.read_text())))


def page(found: dict[str, Any]) -> str:
    """The page of these figures."""
    rows = [row(_claim(name, kept), kept["runs"]) for name, kept in found.items()]
    used: dict[str, str] = {}
    for kept in found.values():
        used |= kept["versions"]
    measured = ", ".join(f"{k} {v}" for k, v in used.items())
    return ABOUT + "\n".join(rows) + f"\n\nMeasured with {measured}.\n" + section()


def _claim(name: str, kept: dict[str, Any]) -> Claim:
    fields = {key: kept[key] for key in ("what", "peer", "target", "threads", "unit")}
    return Claim(name, make=_nothing, **fields)


def _nothing() -> Any:
    raise AssertionError("these figures are there already")


if __name__ == "__main__":
    main()
