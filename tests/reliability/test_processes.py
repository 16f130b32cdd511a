"""P12, P19, P22: signals, two writers, and what long runs leave behind, in processes of their own."""

import pytest
from verdict import isolated


@pytest.mark.parametrize("each", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_that_is_asked_to_stop_saves_and_says_so(each):
    """SIGTERM is 143, SIGINT 130, with the state of the step that ran; a second signal ends the run at once."""
    verdict = isolated("stops", "stopped", each=each)
    assert (verdict.cases, verdict.failures) == (6 * each, [])


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_one_process_writes_in_a_folder(rounds):
    """Of four that come at once at most one gets it; who is killed is cleaned up after."""
    verdict = isolated("locks", "contended", rounds=rounds)
    print(verdict)
    assert verdict.failures == []
    assert verdict.facts["held"] > 0.5 * rounds


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_long_run_leaves_nothing_behind(asynchronous):
    """10,000 steps and 1,000 saves: less than 1 MB more, and not a descriptor."""
    verdict = isolated("soaks", "soaked", steps=10_000, saves=1_000, asynchronous=asynchronous)
    print(verdict)
    assert verdict.failures == []


CONTROLS = {
    "signals have no status": ("stops", "stopped", {"each": 1}),
    "everybody is dead": ("locks", "contended", {"rounds": 3}),
    "descriptors leak": ("soaks", "soaked", {"steps": 100, "saves": 50}),
    "states are kept": ("soaks", "soaked", {"steps": 200, "saves": 200}),
}


@pytest.mark.parametrize("what", CONTROLS)
def test_what_is_broken_is_seen(what):
    """Negative control: no exit status, locks that nobody respects, descriptors and memory that are kept."""
    module, function, arguments = CONTROLS[what]
    assert isolated(module, function, broken=what, **arguments).failures
