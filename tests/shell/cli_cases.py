"""Tiny runs of the `fnopt` command, and all that they leave behind."""

from pathlib import Path

from fnopt.cli.config import flag
from fnopt.cli.folder import BEST, CURVE, LAST, LOG, SAMPLE
from fnopt.cli.log import read_rows

ROOT = Path(__file__).parents[2]
FILES = {LAST, BEST, LOG, CURVE, SAMPLE}
SMALL = {"width": 8, "layers": 1, "heads": 2, "context": 8, "dropout": 0.2, "batch_size": 2, "micro_batches": 2}
SHORT = {"updates": 9, "eval_every": 4, "save_every": 5, "log_every": 2, "sample_bytes": 4}
TINY = [
    part
    for name, value in {**SMALL, **SHORT, "precision": "fp32", "threads": 1}.items()
    for part in (flag(name), str(value))
]


def left_behind(folder):
    """All bytes of a run but its timings and its picture."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder / LOG)]
    return {name: (folder / name).read_bytes() for name in (LAST, BEST, SAMPLE)} | {"rows": rows}
