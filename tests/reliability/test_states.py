"""P9, P10, P11, P16, P17, P20, P21: data order, failing steps, refusals, sums, old files, snapshots."""

import failing_steps
import golden
import orders
import poisons
import pytest
import refusals
import snapshots
import sums
from breaks import broken


def test_what_a_step_gets_is_a_function_of_seed_epoch_and_place():
    """Drawn alone, iterated from anywhere, or by workers: the same samples in the same micro-batches."""
    verdict = orders.pure()
    assert verdict.failures == []
    assert verdict.cases > 300


def test_processes_share_the_samples_of_one():
    """For world sizes of 1 to 4, by any number of workers; also of a last update that is smaller than the world."""
    verdict = orders.elastic()
    assert verdict.failures == []
    assert verdict.cases > 140


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_not_finite_never_enters_the_state(every):
    """At entries of each gradient, and in the loss; a run that only skips ends with the name of the tensor."""
    verdict = poisons.kept_out(every)
    assert verdict.failures == []
    assert verdict.cases > 3 * verdict.facts["entries"] / every


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_step_that_fails_anywhere_changes_nothing(every):
    """Out of memory, Ctrl-C or a bug at operations of torch: state and generators are as before."""
    verdict = failing_steps.failed(every)
    assert verdict.failures == []
    assert verdict.cases == -(-verdict.facts["operations"] // every)


def test_what_does_not_fit_is_refused_before_anything_changes():
    """Each row of the table of bad input that is about files and states."""
    verdict = refusals.refused()
    assert verdict.failures == []
    assert verdict.cases > 25


def test_micro_batches_sum_to_the_large_batch():
    """Whatever their number and sizes, to rounding."""
    assert sums.accumulated().failures == []


def test_old_files_load_and_later_ones_say_who_made_them():
    """A committed file of each schema."""
    assert golden.loaded().failures == []


@pytest.mark.parametrize("rounds", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_an_asynchronous_save_is_a_snapshot(rounds):
    """All tensors are overwritten before a byte is written."""
    assert snapshots.overwritten(rounds).failures == []


@pytest.mark.slow
def test_a_donated_state_is_saved_as_it_was():
    """A compiled step writes into the memory that is being saved."""
    assert snapshots.donated(20).failures == []


CONTROLS = {
    "orders are drawn anew": lambda: orders.pure(seeds=1),
    "ranks draw alike": lambda: orders.elastic(1, workers=0),
    "what is not finite passes": lambda: poisons.kept_out(40),
    "updates are made in place": lambda: failing_steps.failed(50),
    "mismatches pass": refusals.refused,
    "no digest": refusals.refused,
    "parts are weighed wrongly": sums.accumulated,
    "no migration": golden.loaded,
    "newer schemas pass": golden.loaded,
    "no snapshot": lambda: snapshots.overwritten(3),
}


@pytest.mark.parametrize("what", CONTROLS)
def test_what_is_broken_is_seen(what):
    """Negative control: each of these harnesses turns red when fnopt is broken where it looks."""
    with broken(what):
        assert CONTROLS[what]().failures
