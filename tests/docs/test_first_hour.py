"""The first hour with fnopt: what README says to type, typed, and the mistakes that newcomers make with it.

The code comes out of README, so that README cannot promise what does not run. Quick tests do it in this process, the
slow one in a fresh virtual environment and a copy of the repository, as somebody does who has just cloned it.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from newcomer import LOG_OF_ZERO, README, Newcomer, block, composed, drop_in, end, rule, trainer

import fnopt
from fnopt.cli import main
from fnopt.errors import NonFiniteError, StructureError, UsageError


def test_the_own_loop_ends_at_the_weights_of_torch(tmp_path, monkeypatch):
    """With the one line of README swapped, a loop of torch has another optimizer and ends at the same bits."""
    monkeypatch.chdir(tmp_path)
    ends = []
    for was in (True, False):
        exec(drop_in(was), {})
        ends.append(end(tmp_path))
    (theirs, expected), (ours, got) = ends
    assert (theirs.split(".")[0], ours.split(".")[0]) == ("torch", "fnopt")
    assert torch.equal(got, expected)


def test_one_nan_in_the_data_is_named():
    """With patience=1 a single nan among 256 samples stops README's loop and is named as input."""
    with pytest.raises(NonFiniteError, match=r"the last step was skipped.*and so is the input: batch\[\d\]\[0\];"):
        exec(composed(), {})
    exec(composed(poison="\n"), {})


def test_a_log_of_zero_is_not_blamed_on_the_data():
    """Where params and input are finite, the sentence says so, and where to look instead."""
    with pytest.raises(NonFiniteError, match=r"input are finite: it arose on the way: log\(0\)") as error:
        exec(composed(poison="\n", loss=LOG_OF_ZERO), {})
    assert "the input" not in str(error.value)


def test_the_trainer_names_it_too(tmp_path, monkeypatch, capsys):
    """A Trainer that skipped updates says how to find out which, and that way names the input."""
    monkeypatch.chdir(tmp_path)
    exec(trainer(""), {})
    said = capsys.readouterr()
    assert "2 updates were skipped, not finite or without weight; patience=1 stops" in said.out + said.err
    shutil.rmtree("checkpoints")
    with pytest.raises(NonFiniteError, match=r"and so is the input: batch\[\d\]\[0\];"):
        exec(trainer(", patience=1"), {})


def loss(params, x):
    return (params["w"] * x).sum(), len(x)


class Own:
    """A rule whose update gives what a test wants."""

    def __init__(self, answer):
        self.answer = answer

    def init_state(self, params):
        return {}

    def update(self, grads, state, params):
        return self.answer(params, state)


STEP = {
    "no state": (lambda params, state: params, r"update of Own returned a dict of w, expected \(params, state\)"),
    "state first": (lambda params, state: (state, params), r"returned \(a dict of nothing, …\), expected \(params, st"),
    "nothing": (lambda params, state: None, r"update of Own returned a NoneType, expected \(params, state\)"),
}


@pytest.mark.parametrize("case", STEP)
def test_a_rule_that_returns_something_else_is_told_what_to_return(case):
    """An own rule that forgets the state, or swaps the two, gets a sentence with its name and the right order."""
    answer, message = STEP[case]
    step = fnopt.make_step(fnopt.value_and_grad(loss), Own(answer))
    with pytest.raises(StructureError, match=message):
        step.step(step.init_state({"w": torch.ones(1)}), torch.ones(2))


def test_a_model_for_a_state_is_told_what_begins_one():
    """A step that is given a model instead of a state says what to write."""
    step = fnopt.make_step(fnopt.value_and_grad(loss), fnopt.SGD(0.1))
    with pytest.raises(UsageError, match=r"got a Linear as state.*write step.step\(state, batch\), with state = "):
        step.step(torch.nn.Linear(1, 1), torch.ones(2))


COMMANDS = {
    "a flag like another": (
        "train --update 3",
        "arguments: --update 3; did you mean --updates?; see fnopt train --help",
    ),
    "a flag like none": ("plan --zzz", "unrecognized arguments: --zzz; see fnopt plan --help"),
    "a file to resume": (
        "resume a/step-0000000001.safetensors",
        "is a file, expected the folder of a run: `fnopt resume a`",
    ),
    "a folder to inspect": ("inspect a", "`fnopt inspect a/step-0000000001.safetensors`, or `fnopt verify a` for all"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_wrong_command_is_answered_with_the_right_one(case, tmp_path, monkeypatch, capsys):
    """A mistake in a command ends with status 2, and one line that says what to type."""
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/step-0000000001.safetensors").write_bytes(b"")
    typed, said = COMMANDS[case]
    assert main(typed.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def tensors(folder):
    """The bytes of the newest checkpoint after its header, which also says how often was saved."""
    data = max(folder.glob("step-*.safetensors")).read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


MOVED = "p - self.lr * grads[name].sign().to(p.dtype)"  # of README's rule
MISTAKES = {
    (MOVED, "p.sub_(self.lr * grads[name].sign().to(p.dtype))"): "params['w'] was written to",
    (MOVED, "p - self.lr * grads[name].sign()"): "'w' is torch.float32 of shape [] on cpu, expected torch.bfloat16",
    ("params.items()}, state", "params.items()}"): "update returned a dict, expected a tuple (params, state)",
}


@pytest.mark.slow
def test_the_first_hour(tmp_path):
    """Installed as README says: train, stop, resume, plan, curves; a loop, a rule and its laws; a nan found by name."""
    me = Newcomer(tmp_path)
    *install, train = block("sh", "fnopt train --out").strip().splitlines()
    me.types("\n".join(install))

    said, status = me.stops(f"{train} --quick", at="update 15/30")
    again = re.search(r"`(fnopt resume [^`]+)`", README)[1]
    assert status == 130
    assert re.search(rf"^saved \S+ \(update \d+ of 30\); continue with: {again}$", said, re.MULTILINE)
    assert "already holds" in me.types(f"{train} --quick", 2)
    assert "update 30/30" in me.types(again)
    demo, whole = (tmp_path / train.split()[-1], tmp_path / "runs/whole")
    me.types("fnopt train --quick --out runs/whole")
    assert tensors(demo) == tensors(whole)
    assert {"best.safetensors", "log.jsonl", "curve.png", "sample.txt"} <= {path.name for path in demo.iterdir()}
    assert "files are as they were written" in me.types(f"fnopt verify {demo}")
    assert "updates:     30" in me.types("fnopt plan --quick")
    me.types(f"fnopt curves {demo} {whole}")
    assert (tmp_path / "runs/curves/curves.png").exists()

    ends = []
    for was in (True, False):
        (tmp_path / "mine.py").write_text(drop_in(was))
        me.types("python mine.py")
        ends.append(end(tmp_path))
    assert ends[0][0] != ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])
    for text in (composed(), trainer(", patience=1")):
        (tmp_path / "mine.py").write_text(text)
        assert re.search(r"NonFiniteError: .*and so is the input: batch\[\d\]\[0\];", me.types("python mine.py", 1))

    laws = re.search(r"`(fnopt laws my_module:)MyOptimizer`", README)[1] + "SignSGD"
    (tmp_path / "my_module.py").write_text(rule())
    assert "pip install 'fnopt[laws]'" in me.types(laws, 2)
    me.types(re.search(r"`(pip install -e \"\.\[laws\]\")`", README)[1])
    assert "broken" not in me.types(laws)
    for (old, new), found in MISTAKES.items():
        (tmp_path / "my_module.py").write_text(rule(old, new))
        assert found in me.types(laws, 1)
