"""The `fnopt` command: what a run leaves behind, and that it can be stopped anywhere."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import load_file

from fnopt import load_checkpoint, read_info
from fnopt.cli import main
from fnopt.cli.config import Config, flag
from fnopt.cli.folder import BEST, CURVE, LAST, LOG, SAMPLE, Folder
from fnopt.cli.job import make_job
from fnopt.cli.log import Log, read_rows
from fnopt.cli.sample import generate
from fnopt.cli.text import HELD_OUT, Windows, read_text, split

ROOT = Path(__file__).parents[2]
FILES = {LAST, BEST, LOG, CURVE, SAMPLE}
SMALL = {"width": 8, "layers": 1, "heads": 2, "context": 8, "dropout": 0.2, "batch_size": 2, "micro_batches": 2}
SHORT = {"updates": 9, "eval_every": 4, "save_every": 5, "log_every": 2, "sample_bytes": 4}
TINY = [
    part
    for name, value in {**SMALL, **SHORT, "precision": "fp32", "threads": 1}.items()
    for part in (flag(name), str(value))
]


@pytest.fixture(autouse=True)
def _threads_given_back():
    """A run sets the number of threads; the other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text(tmp_path):
    """A text of 40 training windows at the tiny context."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i} of the text.\n" for i in range(18)))
    return path


@pytest.fixture
def train(tmp_path, text):
    """Begin a tiny run in a folder of that name; further flags win."""

    def begin(name, *flags):
        return main(["train", "--out", str(tmp_path / name), "--data", str(text), *TINY, *flags])

    return begin


def left_behind(folder):
    """All bytes of a run but its timings and its picture."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(folder / LOG)]
    return {name: (folder / name).read_bytes() for name in (LAST, BEST, SAMPLE)} | {"rows": rows}


def test_a_run_leaves_checkpoints_log_curve_and_sample(train, tmp_path, capsys):
    """A run writes five files and no more, each of which can be read."""
    assert train("run") == 0
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == FILES
    picture = (run / CURVE).read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert len(picture) > 20_000
    assert len((run / SAMPLE).read_bytes()) == len(b"The ") + 4
    info = read_info(run / LAST)
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
    assert set(steps[0]) == {"kind", *names, "bytes", "seconds"}
    assert all(row["bytes"] == 2 * 2 * 8 and row["seconds"] > 0 and row["loss"] > 0 for row in steps[:-1])
    assert steps[3]["bits_per_byte"] == pytest.approx(steps[3]["loss"] * 1.442695)


def test_best_holds_the_average_that_was_validated(train, text, tmp_path):
    """The params of the best checkpoint, put into the model, reach the bits per byte that it claims, to the bit."""
    train("run", "--lr", "0.05")
    info = read_info(tmp_path / "run" / BEST)["info"]
    validations = [row["bits_per_byte"] for row in read_rows(tmp_path / "run" / LOG) if row["kind"] == "validation"]
    assert info["best_bits_per_byte"] == min(validations)
    assert "average" in info["params"]
    job = make_job(Config.from_json(info["config"]), text.read_bytes())
    state = load_checkpoint(tmp_path / "run" / BEST, like=job.step.init_state(job.model))
    assert job.bits_per_byte(state) == info["best_bits_per_byte"]
    assert torch.equal(load_file(tmp_path / "run" / BEST)["params/norm.bias"], state.params["norm.bias"])
    assert torch.equal(job.averaged(state).params["norm.bias"], state.params["norm.bias"])


class Interrupter:
    """Raises KeyboardInterrupt at the nth line that the command itself runs, anywhere that Ctrl-C could."""

    files = tuple(str(Path("fnopt", "cli", name)) for name in ("train.py", "log.py", "folder.py", "job.py"))

    def __init__(self, at):
        self.at, self.lines, self.inside = at, 0, False

    def __call__(self, frame, event, arg):
        code = frame.f_code
        self.inside |= code.co_name == "work"
        if not self.inside or not code.co_filename.endswith(self.files):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(at, start):
    """The exit status of `start()`, interrupted at that line, and how many lines it ran."""
    trace, before = Interrupter(at), sys.gettrace()
    sys.settrace(trace)
    try:
        return start(), trace.lines
    finally:
        sys.settrace(before)


# an interrupt between `open` and the block of `with` leaves the closing to the garbage collector
leaves_files_to_the_collector = pytest.mark.filterwarnings("ignore:.*log.jsonl:pytest.PytestUnraisableExceptionWarning")


def check_interrupted_at(points, train, tmp_path):
    train("whole")
    expected = left_behind(tmp_path / "whole")
    for point in points:
        name = f"stopped{point}"
        assert interrupted(point, lambda name=name: train(name))[0] == 130
        assert main(["resume", str(tmp_path / name)]) == 0
        assert left_behind(tmp_path / name) == expected, f"interrupted at line {point}"


def count_lines(train):
    return interrupted(10**9, lambda: train("counted"))[1]


@leaves_files_to_the_collector
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(train, tmp_path, capsys):
    """Interrupted at any line, a run goes on to the bits of the uninterrupted one, log and best weights too."""
    lines = count_lines(train)
    assert lines > 400
    check_interrupted_at(range(5, lines, lines // 14), train, tmp_path)
    assert "continue with: fnopt resume" in capsys.readouterr().out


@leaves_files_to_the_collector
@pytest.mark.slow
def test_a_run_can_be_stopped_at_every_third_line(train, tmp_path):
    """The same three hundred times, from the first line of the loop to the last of the report."""
    lines = count_lines(train)
    check_interrupted_at(range(1, lines + 1, 3), train, tmp_path)


def test_a_run_can_be_stopped_inside_a_step(train, tmp_path, monkeypatch):
    """Interrupted between two micro-batches of an update, a run goes on from before that update."""
    train("whole")
    calls, job = [], sys.modules["fnopt.cli.job"]
    loss = job.loss

    def interrupting(model, batch):
        calls.append(model.training)
        if calls.count(True) == 12:
            raise KeyboardInterrupt
        return loss(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(job, "loss", interrupting)
        assert train("stopped") == 130
    assert read_info(tmp_path / "stopped" / LAST)["updates"] == 5
    assert main(["resume", str(tmp_path / "stopped")]) == 0
    assert left_behind(tmp_path / "stopped") == left_behind(tmp_path / "whole")


def test_a_second_interrupt_leaves_the_last_checkpoint(train, tmp_path, monkeypatch, capsys):
    """Interrupted again while it saves, a run ends at once, and goes on from the checkpoint before to the same bits."""
    train("whole")
    folder = sys.modules["fnopt.cli.folder"]
    saved, save = [], folder.save_checkpoint

    def interrupting(path, state, info):
        if state.position > 6:
            raise KeyboardInterrupt
        saved.append(state.position)
        return save(path, state, info)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_checkpoint", interrupting)
        assert train("stopped") == 130
    assert saved == [0, 4, 5]
    assert capsys.readouterr().err == "fnopt: stopped before anything new was saved\n"
    assert main(["resume", str(tmp_path / "stopped")]) == 0
    assert left_behind(tmp_path / "stopped") == left_behind(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, train, text, tmp_path):
    """A real signal ends a process with 128 + its number, one line that says how to go on, and no traceback."""
    flags = ["--updates", "200", "--log-every", "10", "--eval-every", "100"]
    begin = ["train", "--out", "run", "--data", str(text), *TINY, *flags]
    run = "import sys; from fnopt.cli import main; sys.exit(main())"
    where = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", run, *begin], cwd=tmp_path, env=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in process.stdout:
        if line.startswith(b"update"):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, b"")
    assert output.decode().strip().endswith("continue with: fnopt resume run")
    assert 0 < read_info(tmp_path / "run" / LAST)["updates"] < 200
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
    assert read_info(tmp_path / "run" / LAST)["updates"] == 12


def test_resume_needs_nothing_but_the_folder(train, text, tmp_path, monkeypatch):
    """A run that began with relative paths goes on from any working directory."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", "run", "--data", text.name, *TINY]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", "../run", "--updates", "10"]) == 0


def test_progress_is_plain_lines_where_nobody_looks(train, capsys):
    """When stdout is no terminal: a line per interval with all figures, one per validation, no control characters."""
    train("run")
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\r" not in output
    number = r"[\d.,]+"
    line = rf"update (\d+)/9  loss {number} \({number} bits/byte\)  lr \S+  {number} tokens/s  skipped 0  ETA [\d:]+"
    assert re.findall(line, output) == ["2", "4", "6", "8", "9"]
    assert re.findall(rf"update (\d+): {number} bits/byte on held-out text", output) == ["4", "8", "9"]


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
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {CURVE}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes_to_the_bit(precision, train, tmp_path, monkeypatch):
    """Under autocast, with the skipped steps of a loss scale that begins too high, a resumed run has the same bits."""
    job = sys.modules["fnopt.cli.job"]
    monkeypatch.setattr(job, "DynamicLossScale", lambda scale=job.DynamicLossScale: scale(init_scale=2.0**26))
    train("whole", "--precision", precision)
    expected = left_behind(tmp_path / "whole")
    skipped = [row["skipped"] for row in expected["rows"] if row["kind"] == "update"]
    assert (sum(skipped) > 0) == (precision == "fp16")
    assert len(skipped) == 9 + sum(skipped)
    assert interrupted(150, lambda: train("stopped", "--precision", precision))[0] == 130
    main(["resume", str(tmp_path / "stopped")])
    assert left_behind(tmp_path / "stopped") == expected


def test_a_run_that_diverges_stops_with_a_sentence(train, capsys):
    """When only skipped steps follow, a run gives up instead of spinning for ever."""
    assert train("run", "--lr", "1e6", "--clip", "1e30", "--weight-decay", "1e6", "--updates", "60") == 2
    assert re.fullmatch(r"fnopt: \d+ steps in a row were skipped, .* smaller --lr\n", capsys.readouterr().err)


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
    "a folder with a run": (["--out", "done"], "--out: done already holds last.safetensors; go on with `fnopt resume"),
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
        "done/" + LAST: b"",
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
    folder = sys.modules["fnopt.cli.folder"]

    def save(path, *_):
        raise folder.FolderError(f"cannot write {path}")

    monkeypatch.setattr(folder, "save_checkpoint", save)
    assert train("run") == 2
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", f"fnopt: cannot write {tmp_path / 'run' / LAST}\n")


def test_resume_says_what_is_wrong(train, text, tmp_path, monkeypatch, capsys):
    """A folder without a run, a damaged or foreign checkpoint, changed text and too few updates are a sentence each."""
    train("run")
    run = tmp_path / "run"

    def refused(*arguments):
        capsys.readouterr()
        assert main(["resume", *map(str, arguments)]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("fnopt: ")
        assert errors.count("\n") == 1
        return errors

    assert "holds no run (no last.safetensors): it does not exist" in refused(tmp_path / "nowhere")
    assert "it holds run, text.txt" in refused(tmp_path)
    assert "--updates must be at least the 9 that" in refused(run, "--updates", "8")
    saved = text.read_text()
    text.write_text(saved + "!")
    assert "the text is no longer what" in refused(run)
    text.write_text(saved)
    data = (run / LAST).read_bytes()
    (run / LAST).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "is damaged: its sha256" in refused(run)
    (run / LAST).write_bytes(data)
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
    shown = {block.split()[0]: " ".join(block.split()) for block in blocks}
    for field in attrs.fields(Config):
        default = "" if field.default in (None, ()) else f"{field.default!r})"
        assert f"(default: {default}" in shown[field.name.replace("_", "-")]
    assert main(["resume", "--help"]) == 0
    assert main(["--help"]) == 0


def test_flags_win_over_quick_and_quick_over_defaults(text, tmp_path):
    """`--quick` is a set of other defaults."""
    out = ["train", "--quick", "--data", str(text), "--context", "8", "--updates", "2", "--sample-bytes", "0"]
    assert main([*out, "--out", str(tmp_path / "run")]) == 0
    config = Config.from_json(read_info(tmp_path / "run" / LAST)["info"]["config"])
    assert (config.updates, config.context, config.width, config.lr) == (2, 8, 64, Config().lr)


def test_a_cut_off_log_goes_on_at_the_checkpoint(tmp_path):
    """Rows after the positions to go on from are cut, kind by kind, and half a line that a crash left."""
    path = tmp_path / LOG
    rows = [{"kind": kind, "position": at} for at in (1, 2, 3) for kind in ("update", "validation")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "up')
    Log(path, {"update": 2, "validation": 1})
    assert read_rows(path) == [rows[0], rows[1], rows[2]]
    Log(path)
    assert read_rows(path) == []


def test_text_of_folders_is_their_visible_text_files_in_order(tmp_path):
    """A folder gives its files by name: no hidden ones, no binary ones; Python's help topics are the default."""
    for name, data in {
        "b.md": b"two",
        "a/z.txt": "ü".encode(),
        ".git/x": b"no",
        "c.bin": b"\xff\xfe",
        "d": b"a\0b",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert read_text([str(tmp_path)]) == "ü\ntwo".encode()
    assert read_text([str(tmp_path / "c.bin"), str(tmp_path / "b.md")]) == b"\xff\xfe\ntwo"
    assert len(read_text([])) > 300_000


def test_windows_predict_every_byte_once_and_the_held_out_ones_never():
    """Targets follow their inputs; together they are the text after its first byte; the parts do not overlap."""
    data = bytes(range(200))
    train, held_out = split(data, context=7)
    assert bytes(train.tolist()) + bytes(held_out.tolist()) == data
    assert len(held_out) == int(len(data) * HELD_OUT)
    windows = Windows(train, 7)
    assert all(torch.equal(x[1:], y[:-1]) for x, y in (windows[i] for i in range(len(windows))))
    predicted = torch.cat([windows[i][1] for i in range(len(windows))])
    assert torch.equal(predicted, train[1 : 1 + len(predicted)].long())
    assert len(train) - 1 - len(predicted) < 7
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_the_model_does_not_see_the_future():
    """A later byte changes no earlier prediction."""
    job = make_job(Config(width=8, heads=2, layers=2, context=16), bytes(200))
    x = torch.arange(16)[None]
    changed = x.clone()
    changed[0, 9] += 1
    same = (job.model(x) == job.model(changed)).all(-1)[0]
    assert same[:9].all()
    assert not same[9:].any()


def test_a_sample_is_a_function_of_its_arguments():
    """The same seed gives the same text, also longer than the context; temperature 0 needs none; modes come back."""
    model = make_job(Config(width=8, heads=2, layers=1, context=4), bytes(200)).model
    draw = generate(model, b"ab", 9, temperature=1.0, seed=1)
    assert (
        draw == generate(model, b"ab", 9, temperature=1.0, seed=1) != generate(model, b"ab", 9, temperature=1.0, seed=2)
    )
    assert len(draw) == 11
    assert generate(model, b"", 3, temperature=0.0, seed=1) == generate(model, b"", 3, temperature=0.0, seed=2)
    assert model.training


def test_a_config_survives_a_checkpoint():
    """What a checkpoint stores of a config is JSON, and gives the config back."""
    config = Config(data=("a", "b"), warmup=3, threads=2)
    assert Config.from_json(json.loads(json.dumps(config.as_json()))) == config


@pytest.mark.slow
def test_the_default_job_reaches_three_bits_per_byte(tmp_path):
    """`fnopt train` with its defaults ends below 3.0 bits per byte on text that it has not seen."""
    assert main(["train", "--out", str(tmp_path / "run")]) == 0
    assert read_info(tmp_path / "run" / LAST)["info"]["best_bits_per_byte"] < 3.0


@pytest.mark.slow
def test_the_job_ends_where_a_plain_torch_loop_does(tmp_path):
    """In float32, fnopt and the torch loop of the bench end at the same bits per byte: far closer than 0.02."""
    script = [sys.executable, ROOT / "tests/bench/main_job_vs_torch.py", "--quick", "--updates", "250"]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*script, "--json", tmp_path / "figures.json"], check=True, env=where)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert abs(figures["difference"]) < 0.002
    assert figures["fnopt_bits_per_byte"] < 4.0


def test_folder_of_a_run_knows_where_it_is(train, tmp_path):
    """What `resume` begins from is what `train` ended with."""
    train("run")
    folder, now = Folder.go_on(tmp_path / "run", None)
    assert (now.state.position, now.validated) == (9, 9)
    assert now.best == min(row["bits_per_byte"] for row in read_rows(folder.log.path) if row["kind"] == "validation")
