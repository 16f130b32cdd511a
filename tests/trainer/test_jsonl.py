"""The JSONL log: no row is lost or there twice, whatever stops a run; and no step waits for the device."""

import json
import math
import sys

import pytest
import torch
from callback_cases import STATE, run, view
from hypothesis import given
from hypothesis import strategies as st

import fnopt
from fnopt.callbacks import JsonlLog, Reporter, View, read_rows
from fnopt.callbacks.rows import plain

rows_module = sys.modules["fnopt.callbacks.rows"]


def places(path):
    """Kind and position of each row, without the rest."""
    return [(row["kind"][0], row["position"]) for row in read_rows(path)]


def test_a_row_has_what_the_step_reported_and_where(tmp_path):
    """Each line is a JSON object: kind, position, updates, epoch, every metric, seconds; a validation its figures."""
    log = JsonlLog(tmp_path / "new" / "log.jsonl", every=1)
    log.on_update(view(1, epoch=2, accuracy=0.5, skipped=1))
    log.on_update(view(2, loss=math.inf))
    log.on_validate(view(2, validation={"loss": math.nan, "accuracy": 0.25}))
    first, second, third = (json.loads(line) for line in log.path.read_text().splitlines())
    place = {"kind": "update", "position": 1, "updates": 1, "epoch": 2}
    figures = {"loss": 1.0, "lr": pytest.approx(0.1), "grad_norm": 2.0, "weight": 4.0, "accuracy": 0.5, "skipped": 1}
    assert first == {**place, **figures, "seconds": None}
    assert second["loss"] is None
    assert second["seconds"] >= 0
    assert third == {"kind": "validation", "position": 2, "updates": 2, "epoch": 0, "loss": None, "accuracy": 0.25}


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.booleans()), max_size=5), st.integers(1, 5))
def test_any_stops_and_resumes_leave_the_log_of_the_whole_run(tmp_path_factory, stops, every):
    """A run that stops anywhere, written or not, and goes on from any checkpoint before, leaves every row once."""
    folder = tmp_path_factory.mktemp("log")
    checkpoint, validate, save = 0, range(3, 13, 3), range(2, 13, 2)
    for stop, _, closed in stops:
        log = JsonlLog(folder / "log.jsonl", every=every)
        run([log], range(checkpoint + 1, stop + 1), validate, save)
        if closed:
            log.close()
        checkpoint = max(checkpoint, stop // 2 * 2)
    log = JsonlLog(folder / "log.jsonl", every=every)
    run([log], range(checkpoint + 1, 13), validate, save)
    log.close()
    whole = [place for n in range(1, 13) for place in (("u", n), ("v", n)) if place[0] == "u" or n in validate]
    assert places(folder / "log.jsonl") == whole


def test_a_log_that_does_not_cut_has_rows_twice(tmp_path, monkeypatch):
    """Negative control: without the cut, a resumed run leaves the rows past the checkpoint twice."""
    monkeypatch.setattr(JsonlLog, "_cut", lambda log, first: log.path.stat().st_size if log.path.exists() else 0)
    (tmp_path / "log.jsonl").touch()
    for begin in (1, 3):
        run([JsonlLog(tmp_path / "log.jsonl", every=1)], range(begin, 6))
    assert places(tmp_path / "log.jsonl").count(("u", 4)) == 2


def test_a_run_that_goes_back_replaces_its_rows(tmp_path):
    """In one process: after an earlier checkpoint is loaded, the rows from there on are replaced; so are repeats."""
    log = JsonlLog(tmp_path / "log.jsonl", every=2)
    run([log], [1, 2, 3, 4])
    run([log], [3, 4])
    assert places(log.path) == [("u", n) for n in (1, 2, 3, 4)]
    log.report(plain([{"kind": "update", "position": 4, "again": 1}]))
    assert read_rows(log.path)[-1] == {"kind": "update", "position": 4, "again": 1}


def test_a_last_line_that_a_crash_cut_off_is_dropped_and_any_other_is_refused(tmp_path):
    """Half a row at the end is no row; a line that no log has is known before the run begins."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "update", "position": 1}\n{"kind": "up')
    assert places(path) == [("u", 1)]
    run([JsonlLog(path, every=1)], [2])
    assert places(path) == [("u", 1), ("u", 2)]
    path.write_text("loss: 0.5\n")
    with pytest.raises(fnopt.FnoptError, match=r"log\.jsonl: line 1 is not a row of a log that fnopt wrote"):
        JsonlLog(path)


class Counting(Reporter):
    """Counts reports."""

    def report(self, rows):
        self.rows = [*getattr(self, "rows", []), rows]


def test_tensors_are_read_only_when_rows_are_reported(monkeypatch):
    """Between reports nothing reads a tensor; a report reads all of one dtype at once, however many rows wait."""
    reads = []
    values = rows_module._values
    monkeypatch.setattr(rows_module, "_values", lambda tensor: reads.append(tensor.dtype) or values(tensor))
    reporter = Counting(every=10)
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
            patch.setattr(torch.Tensor, name, refuse)
        run([reporter], range(1, 10))
        with pytest.raises(AssertionError, match="waited"):  # the control: a read would be seen
            float(torch.zeros(()))
    assert reads == []
    run([reporter], [10])
    assert sorted(map(str, reads)) == ["torch.float32", "torch.int64"]
    assert [len(rows) for rows in reporter.rows] == [10]


def refuse(*_):
    raise AssertionError("somebody waited for the device")


def test_a_row_is_of_its_moment_also_of_a_step_that_writes_in_place():
    """The updates of a row are those when it was made, though a compiled step writes over the memory of the state."""
    reporter, state = Counting(every=2), fnopt.evolve(STATE, updates=torch.tensor(0))
    for position in (1, 2):
        state.updates.add_(1)
        reporter.on_update(View(fnopt.evolve(state, position=position), {}))
    assert [row["updates"] for row in reporter.rows[0]] == [1, 2]


def test_rows_are_reported_at_the_last_update_at_events_and_at_the_end():
    """At a multiple of `every`, at the planned end, at a validation, a checkpoint, and at close; never for nothing."""
    reporter = Counting(every=4)
    run([reporter], range(1, 8), validate=[2], save=[5], total=7)
    assert [len(rows) for rows in reporter.rows] == [3, 2, 1, 2]
    reporter.close()
    assert len(reporter.rows) == 4
    run([reporter], [8])
    reporter.close()
    assert len(reporter.rows) == 5
    assert reporter.rows[-1][0]["seconds"] is None  # after a pause nobody knows when the step began


@pytest.mark.parametrize("every", [0, 2.0, True])
def test_an_interval_is_a_count(every):
    """`every` is an int of at least 1."""
    with pytest.raises(fnopt.FnoptError, match="every must be an int >= 1, got"):
        Reporter(every=every)
    with pytest.raises(NotImplementedError, match="write report"):
        run([Reporter(every=1)], [1])
