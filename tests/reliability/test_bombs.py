"""P7: a hostile file costs no more memory than its size and 64 MB before it is refused."""

import bombs
import pytest
from verdict import isolated

LARGE = ["a million tiny tensors", "95 MB of header", "95 MB of document", "95 MB of number"]
SMALL = [name for name in bombs.BOMBS if name not in LARGE]


@pytest.mark.parametrize("names", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)])
def test_bombs_are_refused_within_their_size_and_64_MB(names):
    """Deep, wide, compressed, overlapping and countless: none is loaded, none takes memory that it may not."""
    verdict = isolated("bombs", "bounded", names=names)
    print(verdict)
    assert (verdict.cases, verdict.failures) == (2 * len(names), [])


CONTROLS = {"headers are trusted": "small values", "archives are trusted": "a zip bomb"}


@pytest.mark.parametrize("what", CONTROLS)
def test_a_reader_that_looks_later_is_seen(what):
    """Negative control: without the checks of counts and sizes, the bomb goes off."""
    assert isolated("bombs", "bounded", broken=what, names=[CONTROLS[what]]).failures
