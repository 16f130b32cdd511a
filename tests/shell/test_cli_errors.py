"""What cannot be done is one sentence; every setting is in --help."""

from pathlib import Path

import attrs
import pytest
from cli_cases import last

import fnopt
from fnopt import CheckpointManager, read_info
from fnopt.cli import main
from fnopt.cli.config import Config
from fnopt.cli.folder import LOG, FolderError

FIRST = "step-0000000000.safetensors"

REFUSED = {
    "an unknown flag": (["--bathc-size", "4"], "unrecognized arguments: --bathc-size"),
    "an abbreviated flag": (["--upd", "4"], "unrecognized arguments: --upd"),
    "no number": (["--updates", "many"], "argument --updates: invalid int value: 'many'"),
    "an unknown precision": (["--precision", "fp8"], "argument --precision: invalid choice: 'fp8'"),
    "no updates": (["--updates", "0"], "--updates must be at least 1, got 0"),
    "a negative rate": (["--lr", "-1"], "--lr must be from 0 to 1e+06, got -1.0"),
    "a rate that is no number": (["--lr", "nan"], "--lr must be from 0 to 1e+06, got nan"),
    "no clip": (["--clip", "0"], "--clip must be from 1e-06 to 1e+30, got 0.0"),
    "a long memory": (["--ema", "1.5"], "--ema must be from 0 to 1, got 1.5"),
    "all dropped": (["--dropout", "1"], "--dropout must be from 0 to 0.99, got 1.0"),
    "heads that do not divide": (["--heads", "3"], "--width must be a multiple of --heads, got 8 and 3"),
    "warm-up without end": (["--warmup", "9"], "--warmup must be less than --updates, got 9 and 9"),
    "no such file": (["--data", "nowhere.txt"], "nowhere.txt: No such file or directory"),
    "a folder without text": (["--data", "empty"], "empty holds no text file (of 1 files); name other paths"),
    "too short a text": (["--data", "short.txt"], "the text has 10 bytes, and --context 8 needs at least 90"),
    "a folder with a run": (
        ["--out", "done"],
        "--out: done already holds step-0000000000.safetensors; go on with `fnopt resume",
    ),
    "a folder with a file of that name": (["--out", "mine"], "--out: mine already holds log.jsonl; name another"),
    "a file for a folder": (["--out", "short.txt"], "--out: cannot make the folder short.txt"),
    "a folder below a file": (["--out", "short.txt/run"], "--out: cannot make the folder short.txt/run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_sentence(case, train, tmp_path, monkeypatch, capsys):
    """A mistake ends with status 2 and one line on stderr that names the flag or file; nothing is written."""
    monkeypatch.chdir(tmp_path)
    for path, data in {
        "empty/x.bin": b"\0",
        "short.txt": b"too short.",
        "done/" + FIRST: b"",
        "mine/" + LOG: b"",
    }.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(data)
    before = sorted(Path().rglob("*"))
    flags, expected = REFUSED[case]
    assert train("run", *flags) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("fnopt: ")
    assert expected in errors
    assert errors.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_refused_before_training(train, tmp_path, monkeypatch, capsys):
    """When the first checkpoint cannot be written, the run does not begin."""

    def save(manager, state, **_):
        raise FolderError(f"cannot write into {manager.folder}")

    monkeypatch.setattr(CheckpointManager, "save", save)
    assert train("run") == 2
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", f"fnopt: cannot write into {tmp_path / 'run'}\n")


def test_resume_says_what_is_wrong(train, text, tmp_path, monkeypatch, capsys):
    """No run, damaged checkpoints, another process, a foreign log, changed text, too few updates: a sentence each."""
    train("run")
    run = tmp_path / "run"

    def refused(*arguments):
        capsys.readouterr()
        assert main(["resume", *map(str, arguments)]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("fnopt: ")
        assert errors.count("\n") == 1
        return errors

    assert "holds no run (no step-*.safetensors): it does not exist" in refused(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert "it holds run, text.txt" in refused(tmp_path)
    assert "--updates must be at least the 9 that" in refused(run, "--updates", "8")
    saved = text.read_text()
    text.write_text(saved + "!")
    assert "the text is no longer what" in refused(run)
    text.write_text(saved)
    files = {path: path.read_bytes() for path in run.glob("step-*")}
    for path, data in files.items():
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "none of 3 checkpoints" in refused(run)
    for path, data in files.items():
        path.write_bytes(data)
    with CheckpointManager(run):
        assert "is in use by another" in refused(run)
    rows = (run / LOG).read_text()
    (run / LOG).write_text("{}\n" + rows)
    assert "line 1 is not a row of a log" in refused(run)
    (run / LOG).unlink()
    (run / LOG).mkdir()
    assert f"{run / LOG}: Is a directory" in refused(run)
    (run / LOG).rmdir()
    (run / LOG).write_text(rows)
    assert main(["resume", str(run)]) == 0


def test_help_names_every_setting_with_its_default(capsys):
    """`fnopt train --help` has a line for each setting, and says its default."""
    assert main(["train", "--help"]) == 0
    blocks = capsys.readouterr().out.split("\n  --")[1:]
    shown = {block.split()[0].rstrip(","): " ".join(block.split()) for block in blocks}
    for field in attrs.fields(Config):
        default = "" if field.default in (None, ()) else f"{field.default!r})"
        assert f"(default: {default}" in shown[field.name.replace("_", "-")]
    assert main(["resume", "--help"]) == 0
    assert main(["--help"]) == 0


def test_flags_win_over_quick_and_quick_over_defaults(text, tmp_path):
    """`--quick` is a set of other defaults."""
    out = ["train", "--quick", "--data", str(text), "--context", "8", "--updates", "2", "--sample-bytes", "0"]
    assert main([*out, "--out", str(tmp_path / "run")]) == 0
    config = Config.from_json(read_info(last(tmp_path / "run"))["info"]["config"])
    assert (config.updates, config.context, config.width, config.lr) == (2, 8, 64, Config().lr)


def test_it_says_its_version(capsys):
    """As any command."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fnopt {fnopt.__version__}\n"
