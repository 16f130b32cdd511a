"""A signal ends the command after the step that runs, with everything saved; a second one ends it at once."""

import signal
import sys

import pytest
from cli_cases import interrupted, last, leaves_files_to_the_collector, left_behind, terminate

from fnopt import read_info
from fnopt.cli import main


def count_lines(train):
    """How many lines of the command there are to be stopped at."""
    return interrupted(10**9, lambda: train("counted"))[1]


def check_stopped_at(points, train, tmp_path):
    """Terminated at these lines, a run says 143 (0 after its last act), and goes on to the bits of the whole one."""
    train("whole")
    expected, stopped = left_behind(tmp_path / "whole"), 0
    for point in points:
        folder = tmp_path / f"stopped{point}"
        status, _ = interrupted(point, lambda folder=folder: train(folder.name), terminate)
        stopped += status == 143
        assert status == 143 or left_behind(folder) == expected
        assert main(["resume", str(folder)]) == 0
        assert left_behind(folder) == expected, f"terminated at line {point}"
    return stopped


@leaves_files_to_the_collector
def test_a_run_that_is_terminated_anywhere_goes_on_to_the_same_bits(train, tmp_path, capsys):
    """A SIGTERM at any line, from the first step to the picture, is a checkpoint, 143 and a line that says where."""
    lines = count_lines(train)
    points = range(30, lines, lines // 8)
    assert check_stopped_at(points, train, tmp_path) >= 7
    assert capsys.readouterr().out.count("continue with: fnopt resume") >= 7


@leaves_files_to_the_collector
@pytest.mark.slow
def test_a_run_can_be_terminated_at_every_fifteenth_line(train, tmp_path):
    """The same dozens of times."""
    lines = count_lines(train)
    points = range(30, lines + 1, 15)
    assert check_stopped_at(points, train, tmp_path) > 0.9 * len(points)


class Terminating:
    """The loss of the command, which notes its calls and acts in the nth."""

    def __init__(self, at, act, training):
        self.at, self.act, self.training, self.calls = at, act, training, []
        self.loss = sys.modules["fnopt.cli.job"].loss

    def __call__(self, model, batch):
        self.calls.append(model.training)
        if self.calls.count(self.training) == self.at and model.training == self.training:
            self.act()
        return self.loss(model, batch)


@pytest.mark.parametrize(
    ("training", "at", "steps", "updates"), [(True, 5, 3, 3), (True, 6, 3, 3), (True, 7, 4, 4), (False, 1, 4, 4)]
)
def test_it_saves_within_one_step(training, at, steps, updates, train, tmp_path, monkeypatch):
    """The step that runs is finished and kept, none begins; a validation takes no further batch, and is made again."""
    loss = Terminating(at, terminate, training)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["fnopt.cli.job"], "loss", loss)
        assert train("run") == 143
    assert loss.calls.count(True) == 2 * steps  # two micro-batches each
    assert read_info(last(tmp_path / "run"))["updates"] == updates


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_leaves_the_last_checkpoint(number, status, train, tmp_path, monkeypatch):
    """It ends the run in the middle of the step, saves nothing new, and the run goes on to the same bits."""

    def twice():
        signal.raise_signal(number)
        signal.raise_signal(number)

    train("whole")
    loss = Terminating(15, twice, training=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["fnopt.cli.job"], "loss", loss)
        assert train("run") == status
    assert len([call for call in loss.calls if call]) == 15
    assert read_info(last(tmp_path / "run"))["updates"] == 5  # saved every five
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")
