"""P22: steps and saves leave nothing behind in memory, and no descriptor open."""

import gc
import os
import tempfile
from pathlib import Path

import training
from verdict import Verdict

import fnopt

WARM = 0.2  # of the steps come first: allocators and caches reach their size


def soaked(steps: int, saves: int, asynchronous: bool = False) -> Verdict:
    """So many steps and saves; the growth of resident memory in MB after the first fifth, and of open descriptors."""
    with tempfile.TemporaryDirectory() as folder:
        before = 0.0, 0
        with fnopt.CheckpointManager(folder, keep=2, asynchronous=asynchronous) as manager:
            for state, _ in training.go_on(training.parts()[2], steps):
                if state.position % (steps // saves) == 0:
                    manager.save(state)
                if state.position == int(WARM * steps):
                    manager.latest()
                    before = _used()
            manager.latest()
            after = _used()
    verdict = Verdict(facts={"MB": round(after[0] - before[0], 2), "descriptors": after[1] - before[1]})
    verdict.check(after[0] - before[0] < 1.0, f"{after[0] - before[0]:.2f} MB more")
    verdict.check(after[1] == before[1], f"{after[1] - before[1]} descriptors more")
    return verdict


def _used() -> tuple[float, int]:
    """Resident memory in MB, and open descriptors."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))
