"""The section of docs/benchmarks.md about the Trainer, made of tests/bench/trainer.json."""

import json
import statistics
from pathlib import Path
from typing import Any

import trainer_quality

FIGURES = Path(__file__).parent / "trainer.json"
STEP, LOOP = "the bare compiled step", "a bare torch loop"
OURS = {
    "run": "fnopt.run",
    "trainer": "fnopt.Trainer, progress off",
    "logging": "fnopt.Trainer, progress printed every 50 steps (the default)",
    "log": "fnopt.Trainer, progress printed and log.jsonl written",
}
PEERS = {
    "lightning": "Lightning's Trainer, logger, checkpoints and progress off",
    "fabric": "Lightning Fabric",
    "accelerate": "Accelerate",
}
TARGET = 40.0  # us of the Trainer, quiet or with its progress
ABOUT = """
## The Trainer

Printed by `python tests/bench/trainer.py`, which keeps every run in `tests/bench/trainer.json`. CPU only: no GPU was
there, so nothing is said of one. Each process had one thread.

### What a step costs

{overhead}

What a driver adds to a bare loop of the same work: the median over {processes} processes, and the range. In each
process all made 1,000 steps in turns, several times; as the machine is shared, the time of a step is the lower decile
over {stretches} stretches of 100 steps. The model is an MLP 16-32-4 on 16 rows, the optimizer AdamW. fnopt is compared
with its compiled step called in a loop, the others with a torch loop with `torch.optim.AdamW`. No driver validates, and
what it does before the 201st step does not count. A process during which others took over a tenth of a CPU was thrown
away.

A step that is reported costs the memory of its numbers until they are read, 50 steps at a time, and the reading;
`log.jsonl` has rows of its own, and makes text of them.
"""
QUALITY = """
### {name}: {what}

{updates} updates ({epochs} epochs of {batch_size} x 2 samples each) of AdamW with peak lr {lr:g}, warm-up and cosine,
clip 1.0, weight decay {weight_decay:g}, two micro-batches accumulated; {seeds} seeds.

{table}
"""
RULE = """
### Where a run ends

The same first weights, settings and data in three ways, each with its own shuffling; the trained weights are measured
by the same code. Of the paired differences the 95 % interval of the mean is shown (Student's t). The rule, fixed
before: two ways are equal if it lies within the margin, different if it leaves the margin and does not hold 0; else it
is undecided. The control has to be found different. The last lines of each job are of the same batches in the same
order: how far each way is from the plain loop, and how far that is from itself when its first weights differ in the
last bits.
"""


def section() -> str:
    """The text, of what was measured so far."""
    if not FIGURES.exists():
        return ""
    found = json.loads(FIGURES.read_text())
    parts = []
    if (overhead := found.get("overhead")) is not None:
        stretches = len(next(iter(overhead[0].values())))
        parts.append(ABOUT.format(overhead=overheads(overhead), stretches=stretches, processes=len(overhead)))
    jobs: dict[str, Any] = found.get("quality", {})
    if jobs:
        parts.append(RULE)
    for name in trainer_quality.JOBS:
        if name in jobs:
            lines = trainer_quality.table(jobs[name])
            parts.append(QUALITY.format(name=name.capitalize(), table=lines, **jobs[name]))
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    return "".join(parts) + f"\nMeasured with {versions}.\n"


def cost(run: dict[str, list[float]], name: str) -> float:
    """What a driver costs per step, in one process."""
    return quick(run[name]) - quick(run["step" if name in OURS else "loop"])


def quick(stretches: list[float]) -> float:
    """The lower decile: what a step takes while nobody disturbs."""
    return statistics.quantiles(stretches, n=10)[0]


def overheads(runs: list[dict[str, list[float]]]) -> str:
    """Of the processes: the median of their figures, and the range."""
    lines = ["| driver | adds, us per step | to | which takes, us |", "|---|---|---|---|"]
    for name, what in {**OURS, **PEERS}.items():
        bare, text = ("step", STEP) if name in OURS else ("loop", LOOP)
        if any(name not in run for run in runs):
            lines.append(f"| {what} | missing | {text} | |")
            continue
        costs, verdict = [cost(run, name) for run in runs], ""
        if name in ("trainer", "logging"):
            verdict = f", at most {TARGET:g}: {'met' if statistics.median(costs) <= TARGET else '**not met**'}"
        alone = _spread([quick(run[bare]) for run in runs])
        lines.append(f"| {what} | {_spread(costs)}{verdict} | {text} | {alone} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
