"""The commands `compare`, `sweep`, `profile`, `curves`, `plan`: what they leave, and that a plan comes true."""

import json

import pytest
from experiment_cases import TINY

import fnopt
from fnopt.callbacks import read_rows
from fnopt.cli import main
from fnopt.cli.config import Config
from fnopt.cli.experiments import GRID, QUICK, QUICK_GRID, SETTINGS
from fnopt.cli.job import make_job

EXPERIMENTS = {
    "compare": ["--updates", "3", "--eager"],
    "sweep": ["--updates", "3", "--eager", "--lr", "0.01", "0.1", "--weight-decay", "0", "--clip", "1"],
    "profile": ["--updates", "3", "--eager", "--precision", "bf16"],
    "plan": ["--updates", "3"],
}


@pytest.fixture
def experiment(tmp_path, text):
    """Run a tiny experiment; its exit status."""

    def run(name, *flags):
        return main([name, "--out", str(tmp_path / name), "--data", str(text), *TINY, *EXPERIMENTS[name], *flags])

    return run


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_leaves_a_table_a_picture_and_rows(name, experiment, tmp_path, capsys):
    """Each prints its table and names its files: JSONL and PNG that can be read, and the trace of a profile."""
    assert experiment(name) == 0
    output = capsys.readouterr().out
    folder = tmp_path / name
    names = [f"{name}.jsonl", *(["trace.json"] if name == "profile" else []), f"{name}.png"]
    assert {path.name for path in folder.iterdir()} == set(names)
    assert output.endswith(f"{folder}: {', '.join(names)}\n")
    assert "GPT of" in output
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert all(json.loads(line)["kind"] for line in (folder / f"{name}.jsonl").read_text().splitlines())


def test_without_matplotlib_the_table_is_there(experiment, without_matplotlib, tmp_path, capsys):
    """What is missing is one line, and all else is done."""
    assert experiment("plan") == 0
    output = capsys.readouterr().out
    assert "updates:     3" in output
    assert "plan.png is not drawn, as matplotlib is missing: pip install 'fnopt[demo]'" in output
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {"plan.jsonl"}


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("sweep", ["--lr", "-1"], "--lr must be from 0 to 1e+06, got -1.0"),
        ("sweep", ["--clip", "1", "0"], "--clip must be from 1e-06 to 1e+30, got 0.0"),
        ("compare", ["--clip", "0"], "--clip must be from 1e-06 to 1e+30, got 0.0"),
        ("compare", ["--heads", "3"], "--width must be a multiple of --heads, got 8 and 3"),
        ("profile", ["--precision", "fp8"], "argument --precision: invalid choice"),
        ("plan", ["--data", "gone.txt"], "--data: cannot read "),
    ],
)
def test_mistakes_have_one_sentence(name, flags, sentence, experiment, capsys):
    """Exit status 2, one line, the flag in it."""
    assert experiment(name, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fnopt: {sentence}")
    assert error.count("\n") == 1


def test_a_folder_that_cannot_be_written_has_one_sentence(experiment, tmp_path, capsys):
    """A file where the folder should be."""
    (tmp_path / "plan").write_text("")
    assert experiment("plan") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_plan_comes_true(experiment, text, tmp_path):
    """Updates, samples, tokens, micro-steps, rates, validations and groups of the plan are those of the run."""
    flags = ["--updates", "31", "--warmup", "4", "--micro-batches", "4", "--eval-every", "7"]
    assert experiment("plan", *flags) == 0
    found = [json.loads(line) for line in (tmp_path / "plan" / "plan.jsonl").read_text().splitlines()]
    (plan,) = [row for row in found if row["kind"] == "plan"]
    quiet = ["--no-compile", "--precision", "fp32", "--sample-bytes", "0"]
    assert main(["train", "--out", str(tmp_path / "run"), "--data", str(text), *TINY, *flags, *quiet]) == 0
    log = read_rows(tmp_path / "run" / "log.jsonl")
    steps = [row for row in log if row["kind"] == "update"]
    assert len(steps) == plan["updates"] == 31
    assert sum(row["weight"] for row in steps) == plan["tokens"] == 8 * plan["samples"]
    assert plan["tail"] == "the last update of an epoch has 6 of 8 samples"
    assert steps[15]["weight"] == 6 * 8
    for row in found:
        if row["kind"] == "lr":
            assert row["rates"] == pytest.approx([step["lr"] for step in steps], rel=1e-6)
    due = [row["position"] for row in log if row["kind"] == "validation"]
    assert due == [*range(plan["validation"], 32, plan["validation"]), 31]

    data = make_job(Config(**of_flags(flags), data=(str(text),)), text.read_bytes()).data
    assert sum(len(data.at(place)) for place in range(31)) == plan["micro_steps"]
    info = fnopt.read_info(tmp_path / "run" / "best.safetensors")["info"]
    groups = {row["label"]: row for row in found if row["kind"] == "group"}
    assert groups.keys() == {"decay", "no_decay"}
    assert "weight_decay=0.1" in groups["decay"]["rule"]
    assert "weight_decay=0.0" in groups["no_decay"]["rule"]
    assert info["config"]["weight_decay"] == 0.1


def of_flags(flags):
    """Settings by name, of these flags and the tiny ones."""
    pairs = [*TINY, *flags]
    return {name[2:].replace("-", "_"): int(value) for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


def test_curves_takes_what_train_leaves(text, tmp_path, capsys):
    """Two runs of `fnopt train` on top of each other; a path that is none is a sentence."""
    for name in ("a", "b"):
        flags = ["--updates", "4", "--no-compile", "--sample-bytes", "0", "--precision", "fp32"]
        assert main(["train", "--out", str(tmp_path / name), "--data", str(text), *TINY, *flags]) == 0
    out = tmp_path / "curves"
    assert main(["curves", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert [line.split()[:3] for line in output.splitlines() if line.startswith(("a  ", "b  "))] == [
        ["a", "4", "0"],
        ["b", "4", "0"],
    ]
    assert {path.name for path in out.iterdir()} == {"curves.jsonl", "curves.png"}
    assert main(["curves", str(tmp_path / "gone"), "--out", str(out)]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_settings_of_experiments_are_settings():
    """Every default, quick or not, is a Config; the grids are inside its ranges."""
    for name in SETTINGS:
        assert Config(**SETTINGS[name]).updates > Config(**QUICK[name]).updates
    for grid in (GRID, QUICK_GRID):
        for name, values in grid.items():
            assert [getattr(Config(**{name: value}), name) for value in values] == list(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare", "sweep", "profile"])
def test_quick_runs_with_kernels(name, tmp_path, capsys):
    """`--quick` needs nothing else, and what it calls compiled is compiled."""
    assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "compiled" in output
    assert "NOT" not in output
