"""`fnopt laws`: a table and an exit status; one sentence for what cannot be checked."""

import pytest

from fnopt.cli import main

MINE = """
import torch
from fnopt import SGD, make_step, value_and_grad

class Sound:
    lr = 0.1
    def init_state(self, params):
        return {}
    def update(self, grads, state, params):
        return {name: p - self.lr * grads[name].to(p.dtype) for name, p in params.items()}, state

class InPlace(Sound):
    def update(self, grads, state, params):
        for name, p in params.items():
            p.sub_(0.1 * grads[name])
        return params, state

class NeedsArguments(Sound):
    def __init__(self, lr):
        self.lr = lr

step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(0.1))
params, batch = {"w": torch.ones(2)}, torch.ones(3, 2)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, in the current folder."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    return name


@pytest.mark.parametrize(
    "typed",
    [
        ["{}:Sound"],
        ["{}:NeedsArguments(0.1)", "--names", "a", "b", "--exclude", "law_pure"],
        ["{}:step", "--model", "{}:params", "--batch", "{}:batch"],
        ["{}:Sound()", "--reference", "fnopt:SGD(0.1)", "--profile", "ci"],
        ["fnopt:constant(0.1)"],
    ],
)
def test_what_holds_is_a_table_and_status_0(mine, typed, capsys):
    """A thing of the user's, found in the current folder: each law with its verdict and its numbers."""
    typed = [word.replace("{}", mine) for word in typed]
    assert main(["laws", *typed, "--examples", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("laws of ")
    assert "3 cases, 0 discarded" in out
    assert "  broken " not in out
    assert ("excluded        law_pure" in out) == ("law_pure" in typed)
    assert ("law_equals_the_reference" in out) == ("--reference" in typed)


def test_a_broken_law_is_status_1_with_its_smallest_case(mine, capsys):
    """The table is followed by the law, what it found, and the call that shows it."""
    assert main(["laws", f"{mine}:InPlace"]) == 1
    out = capsys.readouterr().out
    assert "  broken          law_pure" in out
    assert "law_pure is broken: A call changes none of its inputs" in out
    assert "Case(params={'w': torch.tensor(" in out


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["fnopt.SGD"], "got 'fnopt.SGD', expected module:expression, such as my_module:MyOptimizer"),
        (["no_such_module:X"], "'no_such_module:X' raises ModuleNotFoundError: No module named 'no_such_module'"),
        (["fnopt:Nope"], "'fnopt:Nope' raises NameError: name 'Nope' is not defined"),
        (["fnopt:ClipNorm"], "write 'fnopt:ClipNorm' with its arguments: 'fnopt:ClipNorm(…)'"),
        (["fnopt:SGD(-1)"], "SGD: lr must be finite and >= 0, got -1.0"),
        (["fnopt:SGD", "--exclude", "law_x"], "no such laws to exclude: ['law_x']"),
        (["fnopt:SGD", "--profile", "fast"], "there is no profile 'fast'; the profiles are ['ci', 'deep']"),
        (["{}:step"], "a GradFn or a step needs model= (or its params) and batch="),
        (["fnopt:partition({'x': SGD()}, {'a': 'x'})"], "pass the names=, shapes= or dtypes= it is for"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence_and_status_2(mine, typed, sentence, capsys):
    """Nothing is printed but what is wrong, and what to write."""
    assert main(["laws", *(word.replace("{}", mine) for word in typed)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1
