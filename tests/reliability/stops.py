"""P12: a run that gets SIGTERM or SIGINT finishes its step, saves, says where, and exits with 143 or 130."""

import os
import random
import signal
import tempfile
import time
from pathlib import Path

import training
from forks import board, fork, returncode, wait_until
from verdict import Verdict

import fnopt

STEPS, SAVED = range(2)
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def stopped(each: int, seed: int = 0) -> Verdict:
    """So many of each signal, at random instants; then as many that are followed by a second one."""
    chance, verdict = random.Random(seed), Verdict()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it, for good
    training.uninterrupted()
    for number in STATUS:
        for _ in range(each):
            _once(verdict, number, chance.uniform(0.0, 0.05))
            _twice(verdict, number)
    return verdict


def _once(verdict: Verdict, number: signal.Signals, delay: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        notes = board(2)
        pid = fork(lambda: _train(Path(folder), notes))
        wait_until(lambda: notes[STEPS] > 0)
        time.sleep(delay)
        os.kill(pid, number)
        code, said = returncode(pid), (Path(folder) / "stderr").read_text()
        with fnopt.CheckpointManager(folder) as manager:
            state, path = manager.restore(training.like()), manager.latest()
        states, _ = training.uninterrupted(max(training.UPDATES, state.position))
        expected = training.print_of(states[state.position])
        right = (code, state.position) == (STATUS[number], notes[STEPS]) and training.print_of(state) == expected
        verdict.check(right, f"{number.name}: exit {code}, position {state.position} after {notes[STEPS]} steps")
        verdict.check(said == f"stopped by {number.name}; saved {path}\n", f"{number.name}: said {said!r}")


def _twice(verdict: Verdict, number: signal.Signals) -> None:
    """The second signal comes within a step that takes a minute: the run ends at once, with its last save."""
    with tempfile.TemporaryDirectory() as folder:
        notes, begin = board(2), time.monotonic()
        pid = fork(lambda: _train(Path(folder), notes, slow_from=2))
        wait_until(lambda: notes[STEPS] == 2)
        os.kill(pid, number)
        wait_until(lambda: notes[SAVED] < 0)  # the first one was noted
        os.kill(pid, number)
        code = returncode(pid)
        with fnopt.CheckpointManager(folder) as manager:
            position = manager.restore(training.like()).position
        right = (code, position) == (STATUS[number], 2) and time.monotonic() - begin < 30
        verdict.check(right, f"{number.name} twice: exit {code}, position {position}")


def _train(folder: Path, notes: memoryview, slow_from: int = 10**9) -> None:
    """A loop as the documentation shows it; `notes` has the steps done."""
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
    try:
        with fnopt.CheckpointManager(folder) as manager, fnopt.stop_on_signal() as stop:
            for state, _ in training.go_on(training.parts()[2], updates=10**6):
                notes[STEPS] = state.position
                if state.position == slow_from:
                    manager.save(state)
                    while True:  # a step that never ends
                        notes[SAVED] = -int(stop.requested)
                        time.sleep(0.001)
                if stop.requested:
                    stop.exit(manager.save(state))
    except KeyboardInterrupt:
        os._exit(130)  # what Python's own end would be to a shell
