"""The `fnopt` command: what a run leaves behind and shows, and what it reaches."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from cli_cases import FILES, ROOT, last
from safetensors.torch import load_file

from fnopt import load_checkpoint, read_info
from fnopt.callbacks import read_rows
from fnopt.cli import main
from fnopt.cli.config import Config
from fnopt.cli.folder import BEST, CURVE, LOG, SAMPLE, STEPS
from fnopt.cli.job import make_job


def test_a_run_leaves_checkpoints_log_curve_and_sample(train, tmp_path, capsys):
    """A run writes four files and its last checkpoints, and no more; each can be read."""
    assert train("run") == 0
    run = tmp_path / "run"
    steps = {f"step-{position:010}.safetensors" for position in (5, 8, 9)}
    assert {path.name for path in run.iterdir()} == FILES | steps
    picture = (run / CURVE).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) > 20_000
    assert len((run / SAMPLE).read_bytes()) == len(b"The ") + 4
    info = read_info(last(run))
    assert (info["updates"], info["position"], info["info"]["config"]["updates"]) == (9, 9, 9)
    assert "AdamW" in info["info"]["optimizer"]
    assert "best:" in capsys.readouterr().out


def test_the_log_has_a_row_for_each_step_and_each_validation(train, tmp_path):
    """Rows are JSON objects: each step once, in order, and the validations where they are due and at the end."""
    train("run")
    rows = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "update"]
    assert [row["position"] for row in steps] == list(range(1, 10))
    assert [row["position"] for row in rows if row["kind"] == "validation"] == [4, 8, 9]
    names = {"position", "updates", "loss", "bits_per_byte", "lr", "grad_norm", "clip_coef", "loss_scale", "skipped"}
    assert set(steps[0]) >= {"kind", *names, "epoch", "weight", "seconds"}
    assert all(row["weight"] == 2 * 2 * 8 and row["loss"] > 0 for row in steps[:-1])
    assert steps[0]["seconds"] is None
    assert all(row["seconds"] > 0 for row in steps[1:])
    assert steps[3]["bits_per_byte"] == pytest.approx(steps[3]["loss"] * 1.442695)


def test_best_holds_the_average_that_was_validated(train, text, tmp_path):
    """The params of the best checkpoint, put into the model, reach the bits per byte that it claims, to the bit."""
    train("run", "--lr", "0.05")
    info = read_info(tmp_path / "run" / BEST)["info"]
    validations = [row["bits_per_byte"] for row in read_rows(tmp_path / "run" / LOG) if row["kind"] == "validation"]
    assert info["marks"]["best"] == min(validations)
    assert "average" in info["weights"]
    job = make_job(Config.from_json(info["config"]), text.read_bytes())
    state = job.trainer.state = load_checkpoint(tmp_path / "run" / BEST, like=job.step.init_state(job.model))
    assert job.trainer.evaluate()["bits_per_byte"] == info["marks"]["best"]
    assert torch.equal(load_file(tmp_path / "run" / BEST)["params/norm.bias"], state.params["norm.bias"])
    assert torch.equal(job.step.eval_params(state)["norm.bias"], state.params["norm.bias"])


def test_progress_is_plain_lines_where_nobody_looks(train, capsys):
    """When stdout is no terminal: a line per interval with all figures, one per validation, no control characters."""
    train("run")
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\r" not in output
    number = r"[\d.,]+"
    figures = rf"epoch \d  loss {number}  bits_per_byte {number}  lr \S+"
    line = rf"update (\d+)/9  {figures}  {number} tokens/s  skipped 0  ETA [\d:]+"
    assert re.findall(line, output) == ["2", "4", "6", "8", "9"]
    assert re.findall(rf"update (\d+): loss {number}  bits_per_byte {number} \(validation\)", output) == ["4", "8", "9"]


def test_progress_is_live_on_a_terminal(train, capsys, monkeypatch):
    """When stdout is a terminal: a bar that is redrawn, with validations above it."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    assert train("run") == 0
    output = capsys.readouterr().out
    assert "\x1b[" in output
    assert "9/9" in output
    assert "update 8:" in output
    assert "tokens/s" in output


def test_training_works_without_the_extras(train, tmp_path, monkeypatch, capsys):
    """Without matplotlib and rich a run says in one line what is missing and how to get it, and leaves all else."""
    for name in ("matplotlib", "rich"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it fails, also of what is in it
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert train("run") == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "pip install 'fnopt[demo]'" in line]
    assert CURVE in note
    assert {path.name for path in (tmp_path / "run").iterdir() if not path.match(STEPS)} == FILES - {CURVE}


def test_a_run_that_diverges_stops_with_a_sentence(train, capsys):
    """When only skipped steps follow, a run gives up instead of spinning for ever."""
    assert train("run", "--lr", "1e6", "--clip", "1e30", "--weight-decay", "1e6", "--updates", "60") == 2
    message = r"fnopt: the last steps were all skipped: .* gradients not finite: .* smaller --lr\n"
    assert re.fullmatch(message, capsys.readouterr().err)


@pytest.mark.slow
def test_the_default_job_reaches_three_bits_per_byte(tmp_path):
    """`fnopt train` with its defaults ends below 3.0 bits per byte on text that it has not seen."""
    assert main(["train", "--out", str(tmp_path / "run")]) == 0
    assert read_info(last(tmp_path / "run"))["info"]["marks"]["best"] < 3.0


@pytest.mark.slow
def test_the_job_ends_where_a_plain_torch_loop_does(tmp_path):
    """In float32, fnopt and the torch loop of the bench end at the same bits per byte: far closer than 0.02."""
    script = [sys.executable, ROOT / "tests/bench/main_job_vs_torch.py", "--quick", "--updates", "250"]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*script, "--json", tmp_path / "figures.json"], check=True, env=where)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert abs(figures["difference"]) < 0.002
    assert figures["fnopt_bits_per_byte"] < 4.0
