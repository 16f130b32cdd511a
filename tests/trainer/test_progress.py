"""Progress: what is shown, on a terminal and off it."""

import re
import sys

from callback_cases import run, view

from fnopt.callbacks import Progress


def on_a_terminal(monkeypatch):
    """From now on stdout is a terminal, 200 columns wide."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def test_off_a_terminal_there_is_a_line_for_each_interval(capsys):
    """Updates, epoch, means by weight, the last rate, throughput, skips and time left; validations by themselves."""
    progress = Progress(every=2, unit="tokens")
    progress.on_update(view(1, 6, loss=1.0, weight=1.0, skipped=0))
    progress.on_update(view(2, 6, loss=4.0, weight=2.0, skipped=1, lr=0.05, epoch=1))
    run([progress], [3, 4, 5], validate=[5], total=6)
    progress.close()
    first, second, third, validation = capsys.readouterr().out.splitlines()
    number = r"[\d,]+"
    start = r"update 2/6  epoch 1  loss 3\.000  lr 5\.00e-02  grad_norm 2\.000"
    assert re.fullmatch(rf"{start}  {number} tokens/s  skipped 1  ETA \d:\d\d", first)
    assert second.startswith("update 4/6  epoch 0  loss 0.292  lr 1.00e-01")
    assert third.startswith("update 5/6")
    assert validation == "update 5: loss 0.200 (validation)"


def test_figures_are_chosen_and_what_is_not_finite_is_said(capsys):
    """Only metrics that the step reports are shown; a mean over nothing finite says so; no total, no ETA."""
    progress = Progress(every=1, figures=("accuracy", "loss", "no such"))
    progress.on_update(view(1, loss=float("nan"), accuracy=0.5))
    line = capsys.readouterr().out.strip()
    assert line == "update 1  epoch 0  accuracy 0.500  loss not finite  skipped 0"


def test_checkpoints_show_nothing(capsys):
    """A checkpoint between two intervals prints no line of its own."""
    run([Progress(every=4)], [1, 2, 3], save=[1, 2, 3])
    assert capsys.readouterr().out == ""


def test_on_a_terminal_there_is_a_bar_and_it_is_left_as_it_was(capsys, monkeypatch):
    """A bar that is redrawn, validations above it; after close the cursor is back, and a training may go on."""
    on_a_terminal(monkeypatch)
    progress = Progress(every=2)
    for positions in ([1, 2, 3, 4], [5, 6]):
        run([progress], positions, validate=[4], total=6)
        progress.close()
    output = capsys.readouterr().out
    assert "4/6" in output
    assert "6/6" in output
    assert "update 4: loss 0.250 (validation)" in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 2  # cursor off, cursor on


def test_a_bar_that_nobody_closes_gives_the_cursor_back(capsys, monkeypatch):
    """A run that ends by an exception, its progress forgotten, leaves the terminal as it was."""
    on_a_terminal(monkeypatch)
    progress = Progress(every=1)
    run([progress], [1], total=6)
    del progress
    assert capsys.readouterr().out.count("\x1b[?25h") == 1


def test_on_a_terminal_without_rich_there_are_lines(capsys, monkeypatch):
    """rich is an extra: without it the lines are plain, also on a terminal."""
    on_a_terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich", None)
    run([Progress(every=1)], [1], total=6)
    assert "\x1b" not in (output := capsys.readouterr().out)
    assert output.startswith("update 1/6")
