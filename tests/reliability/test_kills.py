"""P1: a run that is killed at any instant loses no save that had returned, and goes on to the same bits."""

import pytest
from verdict import isolated


def check(verdict, kills):
    """So many children died of SIGKILL, a third of them inside a save, and nothing was lost."""
    print(verdict)
    assert verdict.failures == []
    assert verdict.facts["kills"] == kills
    assert verdict.facts["inside a save"] >= 0.3 * kills
    assert verdict.facts["left after the next start"] == 0
    for lost in ("unreadable", "lost", "other bits"):
        assert verdict.facts[lost] == 0


def test_a_killed_run_goes_on_to_the_same_bits():
    """200 times SIGKILL: what comes back is the last save that returned or the one after it, to the bit."""
    check(isolated("kills", "killed", way="Managed", kills=200), 200)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Managed", "OneKept"])
def test_a_run_that_is_killed_for_long_does_too(way):
    """500 more, where two files stay, and where one does."""
    check(isolated("kills", "killed", way=way, kills=500, seed=1), 500)


def test_a_writer_in_place_is_seen():
    """Negative control: a file that is written under its own name is found torn or gone."""
    verdict = isolated("kills", "killed", broken="written in place", way="OneFile", kills=30)
    assert verdict.facts["unreadable"] > 0
