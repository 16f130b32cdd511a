"""P3: whatever call of the disk fails, the error is handed over with its errno, and the last checkpoint stays."""

import faults
import pytest
from breaks import broken


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fault", [*faults.FAULTS, "short"])
def test_a_fault_at_any_call_of_a_run_is_handed_over_and_loses_nothing(fault, asynchronous):
    """From the first call of a start to the last one of the end; the next start finds the last save, and no litter."""
    verdict = faults.swept(fault, asynchronous)
    print(verdict.cases, verdict.facts)
    assert verdict.failures == []
    assert verdict.cases > 70
    assert verdict.facts["handed over"] == 0 if fault == "short" else verdict.facts["handed over"] > 40


def test_a_file_that_may_not_grow_leaves_the_old_one():
    """The kernel cuts the write off, at any size."""
    verdict = faults.limited(13)
    assert verdict.failures == []
    assert verdict.cases > 100


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_file():
    """A real file system without room, and one with just enough."""
    verdict = faults.full_disk()
    print(verdict)
    assert verdict.failures == []
    assert 0 < verdict.facts["full"] < verdict.cases


@pytest.mark.parametrize("what", ["errors are swallowed", "written in place"])
def test_a_writer_that_says_nothing_or_destroys_is_seen(what):
    """Negative control: errors that are swallowed, and files that are torn."""
    with broken(what):
        assert faults.swept("EIO").failures
        assert faults.limited().failures
