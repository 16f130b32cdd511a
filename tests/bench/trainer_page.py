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

Microseconds per step that the driver adds to a bare loop of the same work, all in turns in one process: the median over
{rounds} rounds of 1,000 steps each, of {processes} processes, with the range of those medians. The model is an MLP
16-32-4 on 16 rows, the optimizer AdamW. fnopt is compared with its compiled step called in a loop, the others with
a torch loop with `torch.optim.AdamW`; no driver validates, and what it does before the 201st step does not count. A
process during which others took over a tenth of a CPU was thrown away.

A step that is reported costs its place in memory until the next line of progress (a row of seven numbers, read 50 steps
at a time); `log.jsonl` makes rows of its own, and text of them.
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
        rounds = len(next(iter(overhead[0].values())))
        lines = overheads(overhead)
        parts.append(ABOUT.format(overhead=lines, rounds=rounds, processes=len(overhead)))
    jobs: dict[str, Any] = found.get("quality", {})
    if jobs:
        parts.append(RULE)
    for name in trainer_quality.JOBS:
        if name in jobs:
            lines = trainer_quality.table(jobs[name])
            parts.append(QUALITY.format(name=name.capitalize(), table=lines, **jobs[name]))
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items())
    return "".join(parts) + f"\nMeasured with {versions}.\n"


def costs(found: dict[str, list[float]], name: str) -> list[float]:
    """What a driver costs per step, round by round."""
    bare = found["step" if name in OURS else "loop"]
    return [whole - alone for whole, alone in zip(found[name], bare, strict=True)]


def overheads(runs: list[dict[str, list[float]]]) -> str:
    """Of the processes: medians over their rounds, and the range of the medians."""
    lines = ["| driver | over | us per step | of which the loop |", "|---|---|---|---|"]
    for name, what in {**OURS, **PEERS}.items():
        bare, text = ("step", STEP) if name in OURS else ("loop", LOOP)
        if any(name not in run for run in runs):
            lines.append(f"| {what} | {text} | missing | |")
            continue
        cost = _spread([statistics.median(costs(run, name)) for run in runs])
        verdict = ""
        if name in ("trainer", "logging"):
            met = statistics.median(statistics.median(costs(run, name)) for run in runs) <= TARGET
            verdict = f", at most {TARGET:g}: {'met' if met else '**not met**'}"
        lines.append(f"| {what} | {text} | {cost}{verdict} | {_spread([statistics.median(r[bare]) for r in runs])} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
