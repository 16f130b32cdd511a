"""A run can be stopped anywhere, and goes on to the same bits."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from cli_cases import ROOT, TINY, interrupted, last, leaves_files_to_the_collector, left_behind, press, press_twice

from fnopt import CheckpointManager, read_info
from fnopt.cli import main


def check_interrupted_at(points, train, tmp_path, act=press):
    train("whole")
    expected = left_behind(tmp_path / "whole")
    for point in points:
        name = f"stopped{point}"
        assert interrupted(point, lambda name=name: train(name), act)[0] == 130
        assert main(["resume", str(tmp_path / name)]) == 0
        assert left_behind(tmp_path / name) == expected, f"interrupted at line {point}"


def count_lines(train):
    return interrupted(10**9, lambda: train("counted"))[1]


@leaves_files_to_the_collector
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(train, tmp_path, capsys):
    """By Ctrl-C at any line, a run goes on to the bits of the uninterrupted one, log and best weights too."""
    lines = count_lines(train)
    assert lines > 400
    check_interrupted_at(range(20, lines, lines // 12), train, tmp_path)
    assert "continue with: fnopt resume" in capsys.readouterr().out


@leaves_files_to_the_collector
def test_a_run_that_is_interrupted_twice_goes_on_from_its_last_checkpoint(train, tmp_path):
    """The second Ctrl-C ends it in the middle of whatever it does: nothing is lost but the steps since."""
    lines = count_lines(train)
    check_interrupted_at(range(20, lines, lines // 9), train, tmp_path, press_twice)


@leaves_files_to_the_collector
@pytest.mark.slow
def test_a_run_can_be_stopped_at_every_third_line(train, tmp_path):
    """The same three hundred times, from the first line of the loop to the last of the report."""
    lines = count_lines(train)
    check_interrupted_at(range(1, lines + 1, 3), train, tmp_path)


def test_a_run_can_be_stopped_inside_a_step(train, tmp_path, monkeypatch):
    """Interrupted twice between two micro-batches of an update, a run goes on from before that update."""
    train("whole")
    calls, job = [], sys.modules["fnopt.cli.job"]
    loss = job.loss

    def interrupting(model, batch):
        calls.append(model.training)
        if calls.count(True) == 12:
            press_twice()
        return loss(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(job, "loss", interrupting)
        assert train("stopped") == 130
    assert read_info(last(tmp_path / "stopped"))["updates"] == 5
    assert main(["resume", str(tmp_path / "stopped")]) == 0
    assert left_behind(tmp_path / "stopped") == left_behind(tmp_path / "whole")


def test_a_second_interrupt_leaves_the_last_checkpoint(train, tmp_path, monkeypatch, capsys):
    """Interrupted again while it saves, a run ends at once, and goes on from the checkpoint before to the same bits."""
    train("whole")
    saved, save = [], CheckpointManager.save

    def interrupting(manager, state, **given):
        if state.position > 6:
            press_twice()
        saved.append(state.position)
        return save(manager, state, **given)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", interrupting)
        assert train("stopped") == 130
    assert saved == [0, 4, 5]
    assert capsys.readouterr().err == "fnopt: stopped before anything new was saved\n"
    assert main(["resume", str(tmp_path / "stopped")]) == 0
    assert left_behind(tmp_path / "stopped") == left_behind(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, train, text, tmp_path):
    """A real signal ends a process with 128 + its number, one line that says how to go on, and no traceback."""
    flags = ["--updates", "200", "--log-every", "10", "--eval-every", "100", "--save-every", "50"]
    begin = ["train", "--out", "run", "--data", str(text), *TINY, *flags]
    run = "import sys; from fnopt.cli import main; sys.exit(main())"
    where = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", run, *begin], cwd=tmp_path, env=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in process.stdout:
        if line.startswith(b"update "):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, b"")
    assert output.decode().strip().endswith("continue with: fnopt resume run")
    assert 0 < read_info(last(tmp_path / "run"))["updates"] < 200
    assert main(["resume", str(tmp_path / "run")]) == 0
    train("whole", *flags)
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


def test_resume_of_a_finished_run_changes_no_bit_and_more_updates_train_on(train, tmp_path):
    """Without a number it only reports again; with a larger one the same run goes on, its schedule stretched."""
    train("run")
    before = left_behind(tmp_path / "run")
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert left_behind(tmp_path / "run") == before
    assert main(["resume", str(tmp_path / "run"), "--updates", "12"]) == 0
    rows = left_behind(tmp_path / "run")["rows"]
    assert rows[: len(before["rows"])] == before["rows"]
    assert [row["position"] for row in rows if row["kind"] == "update"] == list(range(1, 13))
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert read_info(last(tmp_path / "run"))["updates"] == 12


def test_resume_needs_nothing_but_the_folder(train, text, tmp_path, monkeypatch):
    """A run that began with relative paths goes on from any working directory."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", "run", "--data", text.name, *TINY]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", "../run", "--updates", "10"]) == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes_to_the_bit(precision, train, tmp_path, monkeypatch):
    """Under autocast, with the skipped steps of a loss scale that begins too high, a resumed run has the same bits."""
    composing = sys.modules["fnopt.trainer.composing"]
    scale = composing.DynamicLossScale
    monkeypatch.setattr(composing, "DynamicLossScale", lambda: scale(init_scale=2.0**26))
    train("whole", "--precision", precision)
    expected = left_behind(tmp_path / "whole")
    skipped = [row["skipped"] for row in expected["rows"] if row["kind"] == "update"]
    assert (sum(skipped) > 0) == (precision == "fp16")
    assert len(skipped) == 9 + sum(skipped)
    assert interrupted(150, lambda: train("stopped", "--precision", precision))[0] == 130
    main(["resume", str(tmp_path / "stopped")])
    assert left_behind(tmp_path / "stopped") == expected


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(train, tmp_path, capsys):
    """Where the newest file is damaged, one line says so, and the run goes on from an older one to the same bits."""
    train("run")
    whole, newest = left_behind(tmp_path / "run"), last(tmp_path / "run")
    data = newest.read_bytes()
    newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run")]) == 0
    output, errors = capsys.readouterr()
    assert errors.startswith("fnopt: latest: passed over")
    assert errors.count("\n") == 1
    assert "from update 8 on" in output
    assert left_behind(tmp_path / "run") == whole


@pytest.mark.slow
def test_a_compiled_run_resumes_to_the_bit(train, tmp_path):
    """With kernels, which another process compiles again, as without; and it is another run than that without."""
    train("whole", "--compile")
    expected = left_behind(tmp_path / "whole")
    assert interrupted(150, lambda: train("stopped", "--compile"))[0] == 130
    assert main(["resume", str(tmp_path / "stopped")]) == 0
    assert left_behind(tmp_path / "stopped") == expected
    train("eager")
    assert left_behind(tmp_path / "eager") != expected


def test_a_resume_with_another_torch_says_so(train, tmp_path, monkeypatch, capsys):
    """In one sentence of the command, as the run will not repeat its bits; and where nothing is left, that."""
    train("run")
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert main(["resume", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "fnopt: load_checkpoint: " in said.err
    assert "here '9.9'; the run goes on, not to the bit\n" in said.err
    assert f"nothing is left to train; fnopt resume {tmp_path / 'run'} --updates N trains further" in said.out
