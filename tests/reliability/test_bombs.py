"""P7: a hostile file costs no more memory than its size and 64 MB before it is refused."""

import pytest
from verdict import isolated


def test_bombs_are_refused_within_their_size_and_64_MB():
    """Deep, wide, compressed, overlapping and countless: none is loaded, none takes memory that it may not."""
    verdict = isolated("bombs", "bounded")
    print(verdict)
    assert verdict.failures == []
    assert verdict.cases > 30


CONTROLS = {"headers are trusted": "small values", "archives are trusted": "a zip bomb"}


@pytest.mark.parametrize("what", CONTROLS)
def test_a_reader_that_looks_later_is_seen(what):
    """Negative control: without the checks of counts and sizes, the bomb goes off."""
    assert isolated("bombs", "bounded", broken=what, names=[CONTROLS[what]]).failures
