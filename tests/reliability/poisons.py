"""P10: a nan or an infinity in a loss, or in any entry of a gradient, never enters the state."""

import math
from typing import Any

import torch
import training
from verdict import Verdict

import fnopt
from fnopt.errors import NonFiniteError
from fnopt.grads import Graded
from fnopt.state import TrainState

VALUES = (math.nan, math.inf, -math.inf)
AT = 7  # the position of the update that is poisoned
PATIENCE = 10


@fnopt.record
class Poisoned:
    """A GradFn with one number of its result replaced: entry `at` of the gradient `name`, or without one the loss."""

    grad_fn: Any
    name: str
    at: int
    value: float

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        graded = self.grad_fn(state, batch)
        if not self.name:
            return fnopt.evolve(graded, loss=torch.full_like(graded.loss, self.value))
        leaf = graded.grads[self.name].clone()
        leaf.view(-1)[self.at] = self.value
        return fnopt.evolve(graded, grads={**graded.grads, self.name: leaf})


def kept_out(every: int = 1) -> Verdict:
    """Each number at each entry of each gradient, and in the loss: params, buffers, optimizer and update count keep
    every bit, the skip is counted, the loss scale backed off; ten such updates in a row are an error that names it.
    """
    step, data, _ = training.parts()
    state, verdict = training.uninterrupted(AT + 1)[0][AT], Verdict()
    places = [("", 0), *((name, at) for name, leaf in state.params.items() for at in range(leaf.numel()))]
    cases = [(name, at, value) for name, at in places for value in VALUES]
    for name, at, value in cases[::every]:
        bad = fnopt.evolve(step, grad_fn=Poisoned(step.grad_fn, name, at, value))
        new, metrics = bad.step(state, data.at(AT))
        before = {**new.loss_scale, "scale": new.loss_scale["scale"] * 2}
        moved = int(metrics["skipped"]) == 1 and torch.equal(before["scale"], state.loss_scale["scale"])
        same = fnopt.evolve(new, loss_scale=state.loss_scale, position=state.position)
        right = training.print_of(same) == training.print_of(state) and new.position == AT + 1
        verdict.check(right and moved, f"{value} at {at} of {name or 'the loss'}")
    for name in ("", *state.params):
        bad = fnopt.evolve(step, grad_fn=Poisoned(step.grad_fn, name, 0, math.nan))
        verdict.check(_gives_up(bad, data, state, name), f"{PATIENCE} updates with a nan in {name or 'the loss'}")
    verdict.facts["entries"] = len(places) - 1
    return verdict


def _gives_up(step: Any, data: fnopt.Batches, state: TrainState, name: str) -> bool:
    """Does a run end after so many skips, with an error that says where the nan was?"""
    steps = 0
    try:
        for steps, _ in enumerate(fnopt.run(step, state, data, updates=AT + 5, patience=PATIENCE), 1):  # noqa: B007
            pass
    except NonFiniteError as error:
        report: Any = error.report
        named = name in report.gradients if name else all(math.isnan(loss) for loss in report.losses)
        return named and (name in str(error) if name else "loss" in str(error)) and steps in (PATIENCE - 1, PATIENCE)
    return False
