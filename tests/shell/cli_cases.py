"""Tiny runs of the `fnopt` command, and all that they leave behind."""

import signal
import sys
from pathlib import Path

import attrs
import pytest

from fnopt.callbacks import read_rows
from fnopt.checkpoint.file import read_header
from fnopt.cli.config import flag
from fnopt.cli.folder import BEST, CURVE, LOG, SAMPLE, STEPS

ROOT = Path(__file__).parents[2]
FILES = {BEST, LOG, CURVE, SAMPLE}  # beside checkpoints
SMALL = {"width": 8, "layers": 1, "heads": 2, "context": 8, "dropout": 0.2, "batch_size": 2, "micro_batches": 2}
SHORT = {"updates": 9, "eval_every": 4, "save_every": 5, "log_every": 2, "sample_bytes": 4}
TINY = [
    part
    for name, value in {**SMALL, **SHORT, "precision": "fp32", "threads": 1}.items()
    for part in (flag(name), str(value))
]


def last(folder):
    """The checkpoint of the highest position."""
    return max(folder.glob(STEPS))


def left_behind(folder):
    """All that a run leaves but timings and picture; of its checkpoints the last one, but for which save it was."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder / LOG)]
    document, _ = read_header(last(folder), verify=True)
    data = last(folder).read_bytes()
    files = {name: (folder / name).read_bytes() for name in (BEST, SAMPLE)}
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    return {**files, "rows": rows, last(folder).name: (attrs.evolve(document, serial=0), tensors)}


def press():
    """Ctrl-C; where nobody handles it, a KeyboardInterrupt."""
    signal.raise_signal(signal.SIGINT)


def press_twice():
    """Ctrl-C, and once more: at once."""
    press()
    press()


def terminate():
    """One SIGTERM, unless it would end this process: before the command listens, and when it is done."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        signal.raise_signal(signal.SIGTERM)


class Interrupter:
    """Does something at the nth line of the command, its Trainer or its log, anywhere that a signal could come."""

    files = (
        *(str(Path("fnopt", "cli", name)) for name in ("train.py", "folder.py", "job.py")),
        *(str(Path("fnopt", "trainer", name)) for name in ("trainer.py", "parts.py", "events.py", "saves.py")),
        *(str(Path("fnopt", "callbacks", name)) for name in ("reporter.py", "jsonl.py")),
    )

    def __init__(self, at, act):
        self.at, self.act, self.lines, self.inside = at, act, 0, False

    def __call__(self, frame, event, arg):
        code = frame.f_code
        self.inside |= code.co_name == "work"
        if not self.inside or not code.co_filename.endswith(self.files):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                self.act()
        return self


def interrupted(at, start, act=press):
    """The exit status of `start()`, interrupted at that line, and how many lines it ran."""
    trace, before = Interrupter(at, act), sys.gettrace()
    sys.settrace(trace)
    try:
        return start(), trace.lines
    finally:
        sys.settrace(before)


# an interrupt between `open` and the block of `with` leaves the closing to the garbage collector
leaves_files_to_the_collector = pytest.mark.filterwarnings("ignore:.*log.jsonl:pytest.PytestUnraisableExceptionWarning")
