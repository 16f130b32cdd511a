"""P8: a run resumes from any step to the bit."""

import pytest
import resumes
import training
from breaks import broken

FORGOTTEN = ["position", "optimizer", "loss scale", "seed"]


def test_a_run_resumes_from_every_step():
    """After each of 40 steps, and before the first: an epoch later, losses and state are the same."""
    verdict = resumes.resumed(range(training.UPDATES + 1), ahead=5)
    assert (verdict.cases, verdict.failures) == (training.UPDATES + 1, [])


def test_the_run_uses_what_a_resume_could_lose():
    """Losses differ from step to step, the loss scale grows, the average lags behind, buffers and generators move."""
    states, losses = training.uninterrupted()
    assert len(set(losses)) == len(losses)
    assert len({float(state.loss_scale["scale"]) for state in states}) > 3
    assert len({training.print_of(state) for state in states}) == training.UPDATES + 1
    last = states[-1]
    assert int(last.buffers["body.1.num_batches_tracked"]) > training.UPDATES
    assert not last.params["head.weight"].equal(last.opt_state["ema"]["head.weight"])


@pytest.mark.slow
def test_a_run_resumes_from_every_step_to_the_end():
    """The same, each to the last step."""
    verdict = resumes.resumed(range(training.UPDATES + 1))
    assert (verdict.cases, verdict.failures) == (training.UPDATES + 1, [])


@pytest.mark.slow
def test_a_run_resumes_in_a_fresh_process():
    """Five of them in a Python of their own."""
    verdict = resumes.in_fresh_processes([0, 1, 13, 25, 39])
    assert (verdict.cases, verdict.failures) == (5, [])


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_resume_that_forgets_is_seen(what):
    """Negative control: a load that leaves out one part of the state leads to other bits."""
    with broken(f"{what} is forgotten"):
        assert resumes.resumed([7], ahead=5).failures
