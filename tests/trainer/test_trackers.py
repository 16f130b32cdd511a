"""Trackers: what W&B, trackio and TensorBoard are told, with fakes in their place."""

import math
import sys
import types

import pytest
from callback_cases import run, view

import fnopt
from fnopt.callbacks import TensorBoard, Tracker


class Run:
    """What wandb.init(…) gives, as far as it is used; steps may not fall, as there."""

    def __init__(self):
        self.logged = []

    def log(self, data, step=None):
        assert not self.logged or step >= self.logged[-1][0]
        self.logged.append((step, data))


class Writer:
    """torch.utils.tensorboard.SummaryWriter, as far as it is used."""

    made = ()

    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step, self.scalars, self.calls = folder, purge_step, [], []
        Writer.made = (*Writer.made, self)

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def writers(monkeypatch):
    """The fake in the place of torch.utils.tensorboard."""
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", ())
    return Writer


def test_a_tracked_run_gets_every_step_and_validation_once_in_order():
    """`log(dict, step=position)` for each row: train/… and val/…, plain numbers, nan for what is not finite."""
    tracked = Run()
    tracker = Tracker(tracked, every=2)
    run([tracker], [1, 2, 3], validate=[3])
    assert [step for step, _ in tracked.logged] == [1, 2, 3, 3]
    assert tracked.logged[1][1] == {
        "train/updates": 2, "train/epoch": 0, "train/loss": 0.5, "train/lr": pytest.approx(0.1),
        "train/grad_norm": 2.0, "train/weight": 4.0, "train/skipped": 0,
    }  # fmt: skip
    assert tracked.logged[3][1] == {"val/updates": 3, "val/epoch": 0, "val/loss": pytest.approx(1 / 3)}
    tracker.on_update(view(4, loss=math.inf))
    assert math.isnan(tracked.logged[-1][1]["train/loss"])


def test_what_has_no_log_is_refused():
    """A module or a name in place of a run is refused, with what to give."""
    with pytest.raises(fnopt.FnoptError, match=r"Tracker: run is 'wandb', expected an object with log\(dict, step=…\)"):
        Tracker("wandb")


def test_event_files_get_the_same_figures(tmp_path, writers):
    """TensorBoard's writer gets each figure at its position, is flushed at each report and closed at the end."""
    board, tracked = TensorBoard(tmp_path / "tb", every=2), Run()
    assert not writers.made  # nothing is written before there is something
    run([board, Tracker(tracked, every=2)], [7, 8, 9], validate=[9])
    board.close()
    (writer,) = writers.made
    wanted = [(name, value, step) for step, data in tracked.logged for name, value in data.items()]
    assert writer.scalars == wanted
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "tb"), 7)
    assert writer.calls == ["flush", "flush", "close"]
    run([board], [10])
    assert writers.made[-1].purge_step == 10
    board.close()


def test_without_tensorboard_the_error_says_how_to_get_it(monkeypatch):
    """A missing extra is named before the run begins."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'fnopt\[log\]'"):
        TensorBoard("tb")
