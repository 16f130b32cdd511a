"""P8: a run that stops after any step, and goes on from its file, is the run that never stopped, to the bit."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import training
from verdict import Verdict, isolated, total

import fnopt


def resumed(stops: Iterable[int], ahead: int = training.UPDATES) -> Verdict:
    """Stop after each of these many steps, save, load, and go on, in this process: to the end, or so many steps."""
    return total(_stopped(stop, rest, ahead) for stop in stops)


def in_fresh_processes(stops: Iterable[int], broken: str = "") -> Verdict:
    """The same, each rest in a Python of its own, with what is broken there."""

    def elsewhere(**arguments: Any) -> Verdict:
        return isolated("resumes", "rest", broken=broken, **arguments)

    return total(_stopped(stop, elsewhere, training.UPDATES) for stop in stops)


def rest(path: str, losses: list[float], end: str) -> Verdict:
    """Go on from a file: are these the losses of the steps, and this the last state?"""
    state, verdict, found = fnopt.load_checkpoint(path, training.like()), Verdict(), list[float]()
    for following, loss in training.go_on(state, state.position + len(losses)):
        state = following
        found.append(loss)
    verdict.check((found, training.print_of(state)) == (losses, end), f"other bits after {path}")
    return verdict


def _stopped(stop: int, go_on: Callable[..., Verdict], ahead: int) -> Verdict:
    states, losses = training.uninterrupted()
    end = min(stop + ahead, training.UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        path = fnopt.save_checkpoint(Path(folder) / f"after-{stop}", states[stop])
        return go_on(path=str(path), losses=losses[stop + 1 : end + 1], end=training.print_of(states[end]))
