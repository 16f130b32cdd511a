"""`curves`: any log of fnopt is drawn, what is damaged, empty or missing has one sentence."""

import json
import sys
import types

import pytest

from fnopt.callbacks.jsonl import LogError
from fnopt.experiments.curves import CurvesError, curves


def rows(count=20, **more):
    """Steps of a run that goes down, the third skipped with a loss that is not finite."""
    made = []
    for place in range(1, count + 1):
        bad = place == 3
        figures = {
            "loss": None if bad else 5.0 / place,
            "lr": 0.1,
            "grad_norm": None if bad else 1.0,
            "skipped": int(bad),
        }
        made.append({"kind": "update", "position": place, **figures, "loss_scale": 2.0**place, "seconds": 0.5, **more})
    return [*made, {"kind": "validation", "position": count, "loss": 0.5}]


def write(folder, *lines):
    """A log of these lines in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_the_table_has_what_the_logs_hold(tmp_path):
    """Steps, skips, first and last loss (mean over the last tenth), best validation and its step."""
    write(tmp_path / "a", *rows())
    write(tmp_path / "b", *rows(30)[:-1])
    first, second = curves([tmp_path / "a", tmp_path / "b" / "log.jsonl"]).rows()
    assert first == {
        "run": "a",
        "steps": 20,
        "skipped": 1,
        "first_loss": 5.0,
        "last_loss": 0.25,
        "best_validation": 0.5,
        "at_step": 20,
        "seconds_per_step": 0.5,
    }
    assert (second["run"], second["best_validation"], second["at_step"]) == ("b", None, None)
    text = str(curves([tmp_path / "a", tmp_path / "b"]))
    assert "None" not in text
    assert len(text.splitlines()) == 3


def test_runs_of_one_name_are_told_apart(tmp_path):
    """Two folders of the same name keep their paths."""
    for where in ("x", "y"):
        write(tmp_path / where / "run", *rows())
    names = [run.name for run in curves([tmp_path / "x" / "run", tmp_path / "y" / "run"]).runs]
    assert len(set(names)) == 2
    assert all("/" not in name for name in names)


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ((), CurvesError, "expected steps to draw, got no step yet; leave this run out"),
        (({"kind": "validation", "position": 1, "loss": 1.0},), CurvesError, "got no step yet"),
        (({"kind": "update", "position": 1, "loss": None},), CurvesError, "1 steps, none of which has a finite loss"),
        (({"kind": "update", "position": 1, "loss": 1.0}, "{not json", "{}"), LogError, "line 2 is not a row of a log"),
        (("\x00\x01\x02",), LogError, "line 1 is not a row of a log"),
    ],
)
def test_damaged_and_empty_logs_have_one_sentence(tmp_path, lines, error, message):
    """What is wrong, where, and what to do."""
    path = write(tmp_path / "a", *lines)
    with pytest.raises(error, match=message) as caught:
        curves([tmp_path / "a"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path):
    """The rest of the log is drawn."""
    path = write(tmp_path / "a", *rows())
    path.write_text(path.read_text() + '{"kind": "upd')
    assert curves([path]).rows()[0]["steps"] == 20


@pytest.mark.parametrize(
    ("where", "what"), [("gone", "no such file or folder"), ("empty", "a folder without log.jsonl")]
)
def test_a_missing_log_has_one_sentence(tmp_path, where, what):
    """A path that is not there is told from a folder without a log."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(CurvesError, match=f"expected the log of a run, got {what}; name the folder of a run"):
        curves([tmp_path / where])


def test_the_picture_has_a_panel_for_what_is_logged(tmp_path):
    """A log without a loss scale has no panel for it, one with everything has five."""
    matplotlib = pytest.importorskip("matplotlib.figure")
    write(tmp_path / "all", *rows())
    write(tmp_path / "few", *({"kind": "update", "position": n, "loss": 1.0 / n} for n in range(1, 5)))
    heights = []
    for name in ("all", "few"):
        assert curves([tmp_path / name]).draw(tmp_path / "x.png") == "x.png"
        heights.append(int.from_bytes((tmp_path / "x.png").read_bytes()[20:24]))
    assert matplotlib
    assert heights[0] > 2 * heights[1]


def test_tensorboard_gets_every_row_in_order(tmp_path, monkeypatch):
    """Scalars under train/ and val/, by position; a run is a folder."""
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def flush(self):
            pass

        close = flush

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    write(tmp_path / "a", *rows())
    assert curves([tmp_path / "a"]).export(tmp_path / "board") == [tmp_path / "board" / "a"]
    assert told[0] == (str(tmp_path / "board" / "a"), 1)
    steps = [step for _, _, step in told[1:]]
    assert steps == sorted(steps)
    assert ("train/loss", 2.5, 2) in told
    assert ("val/loss", 0.5, 20) in told


def test_without_tensorboard_the_line_that_installs_it_is_shown(tmp_path, monkeypatch):
    """One sentence with the extra."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    write(tmp_path / "a", *rows())
    with pytest.raises(CurvesError, match=r"is not installed: pip install 'fnopt\[log\]'"):
        curves([tmp_path / "a"]).export(tmp_path / "board")
