"""P6: no code in a file runs, wherever a file is read."""

import ast
from pathlib import Path

import payloads
from breaks import broken

import fnopt


def test_no_payload_runs():
    """Pickles in every place of every kind of file, behind links and odd names: none runs, almost all are refused."""
    verdict = payloads.run()
    print(verdict)
    assert verdict.failures == []
    assert verdict.cases > 300


def test_the_payloads_would_run():
    """They are no duds: whoever trusts them runs them."""
    ran = payloads.trusting()
    print(ran)
    assert ran["torch.load, weights_only=False"] > 20
    assert ran["pickle.load"] >= 12
    assert ran["DCP"] == 1


def test_a_loader_that_trusts_is_seen():
    """Negative control: with weights_only=False, and the names in the pickle unchecked, payloads run."""
    with broken("pickles are trusted"):
        assert payloads.run().failures


def calls_of(tree):
    """The names that a module calls or imports, and its weights_only arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.name for alias in node.names)
            yield getattr(node, "module", None) or ""
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
            yield from (f"weights_only={ast.unparse(k.value)}" for k in node.keywords if k.arg == "weights_only")


def test_nothing_in_fnopt_can_run_what_it_reads():
    """No pickle, marshal, shelve or eval; torch.load in one place, with weights_only=True."""
    found = {}
    for path in Path(fnopt.__file__).parent.rglob("*.py"):
        for name in calls_of(ast.parse(path.read_text())):
            found.setdefault(name, []).append(path.name)
    assert not {"pickle", "cPickle", "dill", "marshal", "shelve", "eval", "weights_only=False"} & found.keys()
    assert found["torch.load"] == ["torch_archive.py"] == found["weights_only=True"]
