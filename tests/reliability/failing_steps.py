"""P11: a step that fails, at any operation of torch, leaves the state before it as it was."""

import torch
import training
from torch.utils._python_dispatch import TorchDispatchMode
from verdict import Verdict

ERRORS = (torch.OutOfMemoryError("out of memory"), KeyboardInterrupt(), ZeroDivisionError("a bug"))


class FailAt(TorchDispatchMode):
    """Raises at the nth operation inside."""

    def __init__(self, at: int = 0):
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.at:
            raise ERRORS[self.at % len(ERRORS)]
        return func(*args, **(kwargs or {}))


def failed(every: int = 1) -> Verdict:
    """Out of memory, Ctrl-C or a bug at every operation of a step: the state, its bits and the generators are as
    before, and the same step on it has the same result.
    """
    step, data, _ = training.parts()
    state, batch, verdict = training.uninterrupted(8)[0][7], data.at(7), Verdict()
    before, after = training.print_of(state), training.print_of(step.step(state, batch)[0])
    with FailAt() as seen:
        step.step(state, batch)
    for at in range(1, seen.count + 1, every):
        generator, raised = torch.get_rng_state(), None
        try:
            with FailAt(at):
                step.step(state, batch)
        except BaseException as error:
            raised = error
        same = training.print_of(state) == before and torch.equal(torch.get_rng_state(), generator)
        again = training.print_of(step.step(state, batch)[0]) == after
        verdict.check(raised in ERRORS and same and again, f"operation {at}: {raised!r}, same {same}, again {again}")
    verdict.facts["operations"] = seen.count
    return verdict
