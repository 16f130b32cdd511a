"""P4: no damage to a file passes, and no good file is refused."""

import damages
import pytest
from breaks import broken


def check(flips, cuts, blocks):
    """All refused."""
    verdict = damages.fnopt_files(flips, cuts, blocks)
    print(verdict.cases, verdict.facts)
    assert verdict.failures == []
    assert verdict.facts == {"flip": flips, "cut": cuts, "block": blocks, "silent": 0}


def test_no_damage_passes():
    """1,000 bits flipped, 100 cuts, 100 blocks zeroed or swapped."""
    check(1_000, 100, 100)


@pytest.mark.slow
def test_much_damage_does_not_pass_either():
    """Ten times as many."""
    check(10_000, 1_000, 1_000)


def test_no_good_file_is_refused():
    """100 states come back to the bit."""
    assert damages.good_files(100).failures == []


@pytest.mark.slow
def test_no_good_file_of_many_is_refused():
    """1,000 of them."""
    assert damages.good_files(1_000).failures == []


def test_files_without_a_digest_are_seen():
    """Negative control: without the digest, flips pass."""
    with broken("no digest"):
        assert damages.fnopt_files(200, 20, 20).facts["silent"] > 20
