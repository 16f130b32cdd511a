"""P1: a run that is killed (SIGKILL) at random instants, again and again, and goes on each time from what it finds."""

import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import training
from forks import board, fork, kill_after, wait_until
from verdict import Verdict
from ways import WAYS, Managed, Way

from fnopt.state import TrainState

_LIFE = 0.03  # seconds: a few steps
AHEAD = 150  # updates that are computed beforehand, to compare with
STARTED, BEGUN, ACKNOWLEDGED = range(3)


def killed(way: str, kills: int, seed: int = 0) -> Verdict:
    """The run of `training`, which saves after every step, killed so often; each time the state that comes back is
    compared with the uninterrupted run's. Every second kill waits for a save to begin.

    Counted: kills inside a save, kills before anything was done, states that could not be read, and saves that had
    returned and were not there.
    """
    _, chance, verdict = training.uninterrupted(AHEAD), random.Random(seed), Verdict()
    verdict.facts = {"inside a save": 0, "unreadable": 0, "lost": 0, "other bits": 0}
    moment = 1.2 * _duration(WAYS[way])
    with tempfile.TemporaryDirectory() as folder:
        position = 0
        for number in range(kills):
            if position > AHEAD - 40:  # begin again; the folder is that of a new run
                position = 0
                shutil.rmtree(folder)
                Path(folder).mkdir()
            notes = board(3)
            notes[BEGUN] = notes[ACKNOWLEDGED] = position
            pid = fork(lambda notes=notes, position=position: _live(WAYS[way], Path(folder), notes, position))
            wait_until(lambda notes=notes: notes[STARTED] > 0)
            if number % 2:
                wait_until(lambda notes=notes: notes[BEGUN] > notes[ACKNOWLEDGED])
            code = kill_after(pid, chance.uniform(0.0, moment if number % 2 else _LIFE))
            verdict.facts["inside a save"] += notes[BEGUN] > notes[ACKNOWLEDGED]
            if code != -9:
                verdict.check(False, f"kill {number}: the child had ended by itself with {code}")
                continue
            position = _judged(verdict, number, WAYS[way], Path(folder), notes)
        verdict.facts["kills"] = kills
        _finish(verdict, WAYS[way], Path(folder), position)
    return verdict


def _duration(way: type[Way]) -> float:
    """The seconds that a save takes, when all goes well."""
    with tempfile.TemporaryDirectory() as folder:
        keeper, times = way(Path(folder)), list[float]()
        for state in training.uninterrupted(AHEAD)[0][:7]:
            begin = time.perf_counter()
            keeper.save(training.weighted(state))
            times.append(time.perf_counter() - begin)
        keeper.close()
    return statistics.median(times)


def _live(way: type[Way], folder: Path, notes: memoryview, position: int) -> None:
    """One life: go on from what is there, saving after every step, until killed."""
    keeper = way(folder)
    first = keeper.load() if position else training.parts()[2]
    notes[STARTED] = 1
    for state, _ in training.go_on(first, updates=10**6):
        notes[BEGUN] = state.position
        keeper.save(training.weighted(state))
        notes[ACKNOWLEDGED] = state.position


def _judged(verdict: Verdict, number: int, way: type[Way], folder: Path, notes: memoryview) -> int:
    """Check what a dead child left; the position to go on from, which is put in order where it has to be."""
    states, _ = training.uninterrupted(AHEAD)
    begun, acknowledged = notes[BEGUN], notes[ACKNOWLEDGED]
    if not begun:
        verdict.check(True, "nothing was begun")
        return 0
    keeper = way(folder)
    if isinstance(keeper, Managed):  # whose start sweeps what the dead left
        litter = sum(path.suffix == ".tmp" for path in folder.iterdir())
        verdict.facts["left after the next start"] = verdict.facts.get("left after the next start", 0) + litter
    try:
        state = keeper.load()
    except Exception as error:
        kind = "unreadable" if acknowledged else ""
        if kind:
            verdict.count(kind)
            verdict.check(False, f"kill {number}: {type(error).__name__}: {str(error)[:80]}")
        else:
            verdict.check(True, "the first save of all was not finished")
        _mend(keeper, folder, acknowledged)
        return acknowledged
    finally:
        keeper.close()
    problems = []
    if state.position < acknowledged:
        verdict.count("lost")
        problems.append("an acknowledged save is lost")
    if state.position > begun or not _same(state, states[state.position]):
        verdict.count("other bits")
        problems.append("other bits than the uninterrupted run")
    verdict.check(not problems, f"kill {number}: {problems}")
    return state.position


def _mend(keeper: Way, folder: Path, acknowledged: int) -> None:
    """Nothing can be read: what a careful user would put there from elsewhere."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if acknowledged:
        keeper.save(training.weighted(training.uninterrupted(AHEAD)[0][acknowledged]))


def _finish(verdict: Verdict, way: type[Way], folder: Path, position: int) -> None:
    """After the last kill the run goes on to its end, and has the bits and losses of the uninterrupted one."""
    states, losses = training.uninterrupted(AHEAD)
    keeper = way(folder)
    first = keeper.load() if position else states[0]
    keeper.close()
    end = min(position + 20, AHEAD)
    *_, (state, _) = rest = list(training.go_on(first, end))
    same = all(loss == losses[state.position] for state, loss in rest)
    verdict.check(same and _same(training.weighted(state), states[end]), "the end differs")


def _same(state: TrainState, expected: TrainState) -> bool:
    return training.print_of(state) == training.print_of(training.weighted(expected))
