"""P19: one writer in a folder, among processes that come at once, and after one that was killed."""

import tempfile
import time
from pathlib import Path

from forks import board, fork, kill_after, returncode, wait_until
from manager_cases import LIKE, at
from verdict import Verdict

import fnopt
from fnopt.errors import RunLockedError

HELD, REFUSED = 1, 2


def contended(rounds: int, writers: int = 4) -> Verdict:
    """Processes that want one folder at the same moment: two never hold it; then one that is killed while it does."""
    verdict = Verdict(facts={"held": 0, "refused": 0})
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            notes = board(writers + 1)  # one for each, and the start
            pids = [fork(lambda i=i, notes=notes, folder=folder: _want(Path(folder), notes, i)) for i in range(writers)]
            notes[writers] = 1
            codes = [returncode(pid) for pid in pids]
            held = sum(note == HELD for note in notes[:writers])
            verdict.facts["held"] += held
            verdict.facts["refused"] += sum(note == REFUSED for note in notes[:writers])
            verdict.check(held <= 1 and codes == [0] * writers, f"round {number}: {held} hold the folder, {codes}")
            verdict.check(_goes_on(Path(folder)), f"round {number}: the next one is refused, or finds litter")
    return verdict


def _want(folder: Path, notes: memoryview, index: int) -> None:
    """Want the folder as soon as all do, and keep it until the end of the process if it is had."""
    wait_until(lambda: notes[len(notes) - 1] > 0)
    try:
        manager = fnopt.CheckpointManager(folder)
    except RunLockedError:
        notes[index] = REFUSED
        return
    notes[index] = HELD
    manager.save(at(1))
    wait_until(lambda: all(notes[:-1]))


def _goes_on(folder: Path) -> bool:
    """A holder is respected while it lives; killed, it is cleaned up after."""
    notes = board(2)
    pid = fork(lambda: _hold(folder, notes))
    wait_until(lambda: notes[0] > 0)
    try:
        fnopt.CheckpointManager(folder)
        respected = False
    except RunLockedError as error:
        respected = str(pid) in str(error)
    killed = kill_after(pid, 0.0) == -9
    with fnopt.CheckpointManager(folder) as manager:
        restored = manager.restore(LIKE).position == 2
    return respected and killed and restored and all(path.name.startswith("step-") for path in folder.iterdir())


def _hold(folder: Path, notes: memoryview) -> None:
    manager = fnopt.CheckpointManager(folder)
    manager.save(at(2))
    notes[0] = 1
    time.sleep(60)
