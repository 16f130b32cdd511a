"""P5: a resume falls back to the newest good file, says so once, and never begins afresh."""

import fallbacks
import pytest
from breaks import broken


def test_whatever_is_broken_the_newest_good_file_is_taken():
    """Every choice of broken files among four, by eight kinds of damage, for restore, latest and best."""
    verdict = fallbacks.passed_over()
    print(verdict.cases)
    assert verdict.failures == []
    assert verdict.cases > 600


@pytest.mark.parametrize("what", ["nothing is passed over", "latest is not verified", "no digest"])
def test_a_manager_that_believes_its_files_is_seen(what):
    """Negative control: without the fallback, the verification or the digest."""
    with broken(what):
        assert fallbacks.passed_over().failures
