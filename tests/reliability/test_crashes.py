"""P2, P18: a power failure at any call of a save leaves the old state or the new one, and as many files as promised."""

import crashes
import pytest
import straced
from breaks import broken


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_crash_at_any_call_leaves_the_last_save_or_the_next(keep, asynchronous):
    """Six saves with retention: every prefix of the trace, every subset of what was not synced yet."""
    verdict = crashes.managed(keep, asynchronous)
    print(verdict.cases, verdict.facts)
    assert verdict.failures == []
    assert verdict.facts["calls"] > 60
    assert verdict.cases > 400


def test_a_crash_at_any_call_leaves_the_old_file_or_the_new():
    """The same for `save_checkpoint` over an old file."""
    verdict = crashes.one_file()
    assert verdict.failures == []
    assert verdict.cases > 100


def test_a_crash_while_the_next_start_sweeps_loses_nothing():
    """Crash, start, crash again: the locks and unfinished files of the dead go, the states stay."""
    verdict = crashes.restarted()
    assert verdict.failures == []
    assert verdict.cases > 50


@pytest.mark.parametrize("what", ["no fsync", "no fsync of the folder", "written in place", "deleted before durable"])
def test_a_writer_that_leaves_something_out_is_seen(what):
    """Negative control: without one of the syncs, in place, or with room made first, states or files are lost."""
    with broken(what):
        assert crashes.managed(1, saves=2).failures
        assert crashes.one_file().failures or what == "deleted before durable"


@pytest.mark.slow
def test_the_recorded_calls_are_those_of_the_kernel():
    """strace sees the same calls in the same order: the fake leaves none out, and makes none up."""
    verdict = straced.compared()
    assert verdict.failures == []
    assert verdict.cases > 30


@pytest.mark.slow
def test_a_recording_that_leaves_calls_out_is_seen():
    """Negative control: a recorded writer without its fsync is not what strace sees."""
    with broken("no fsync"):
        assert straced.compared().failures
