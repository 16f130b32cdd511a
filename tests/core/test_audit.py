"""The audit of other libraries: what it finds in torch, and how its page tells it."""

import sys
from pathlib import Path

import pytest
import torch

import fnopt

sys.path.append(str(Path(__file__).parents[1] / "bench"))

from audit import MAIN, examine, page, table
from audit_peers import FALSE_ALARMS, Subject, of_torch

QUICK = 5  # cases of each law


@pytest.fixture(scope="module")
def adamw():
    """torch.optim.AdamW, audited."""
    return examine(Subject(torch.optim.AdamW, fnopt.AdamW()), QUICK)


def test_audit_finds_what_is_known_of_torch(adamw):
    """AdamW holds in float32, float64 and bfloat16; in float16 its eps is 0, and zero gradients move a parameter."""
    assert not adamw.refused
    assert not adamw.broken(MAIN)
    assert not adamw.broken("bfloat16")
    assert "law_zero_gradients_move_nothing" in [finding.law for finding in adamw.broken("float16")]
    assert "zero_gradients_move_nothing" in list(table([("torch", adamw)]))[-1]


def test_page_tells_the_case_and_what_is_known(adamw):
    """The page has the sentence of a broken law, the call that shows it, a judgement, and the libraries it lacks."""
    text = page({"torch": [adamw]}, QUICK)
    assert "gradients that have always been zero leave every parameter where it is" in text
    assert "law_zero_gradients_move_nothing(optimizer, Case(params={'w': torch.tensor(0.0, dtype=torch.float16)" in text
    assert "In float16 the default eps is 0" in text
    assert "Not judged yet" not in text
    assert "not installed: no rows below" in text


def test_what_a_peer_refuses_is_told_once():
    """An empty parameter, on which Adafactor raises, is no broken law but a shape that laws are tried without."""
    adafactor = examine(Subject(torch.optim.Adafactor), 1)
    assert "ZeroDivisionError" in adafactor.refused["shape (0,)"]
    assert not adafactor.broken(MAIN)


def test_excuses_have_reasons():
    """Each law that something is excused from exists, and the reason is written down."""
    for subject in of_torch():
        assert subject.excused.keys() <= fnopt.laws.LAWS.keys()
        assert set(subject.excused.values()) <= FALSE_ALARMS.keys()
