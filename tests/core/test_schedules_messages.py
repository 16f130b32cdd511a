"""Errors of schedules say which one refuses, what was got, what was expected and what to write: the whole messages."""

import attrs
import pytest
import torch

import fnopt
from fnopt import SGD, errors
from fnopt.schedules.checks import at_least, one_of

sgd = SGD(0.1)
MESSAGES = {
    "a number of updates below 1": (
        lambda: fnopt.linear(0.0, 1.0, steps=0),
        "Linear: steps must be an int >= 1, got 0; it is a number of updates",
    ),
    "a multiple below 1": (
        lambda: fnopt.cosine_restarts(1.0, 3, 0),
        "CosineRestarts: multiply must be an int >= 1, got 0; each period is so many times as long as the last",
    ),
    "a number of metrics below 0": (
        lambda: fnopt.plateau(0.1, patience=-1),
        "Plateau: patience must be an int >= 0, got -1; it is a number of metrics",
    ),
    "at least two": (
        lambda: at_least(2, "it is a pair")(sgd, attrs.fields(SGD).lr, 1),
        "SGD: lr must be an int >= 2, got 1; it is a pair",
    ),
    "at least two of another type": (
        lambda: at_least(2, "it is a pair")(sgd, attrs.fields(SGD).lr, 3.0),
        "SGD: lr must be an int >= 2, got 3.0; it is a pair",
    ),
    "one of three": (
        lambda: one_of("a", "b", "c")(sgd, attrs.fields(SGD).momentum, "d"),
        "SGD: momentum must be 'a' or 'b' or 'c', got 'd'; it names a formula",
    ),
    "no bool": (
        lambda: fnopt.one_cycle(1.0, 9, three_phase=1),
        "OneCycle: three_phase must be a bool, got 1; it chooses a formula",
    ),
    "no such formula": (
        lambda: fnopt.one_cycle(1.0, 9, anneal="exp"),
        "OneCycle: anneal must be 'cos' or 'linear', got 'exp'; it names a formula",
    ),
    "milestones out of order": (
        lambda: fnopt.multistep_decay(0.1, [3, 2]),
        "MultistepDecay: milestones must be increasing ints >= 1, got (3, 2); each is a number of updates",
    ),
    "a join of numbers": (
        lambda: fnopt.join([0.1], []),
        "Join: schedules must be a list of Schedules, got (0.1,); a number is constant(number)",
    ),
    "too few boundaries": (
        lambda: fnopt.join([fnopt.constant(0.1)] * 3, [5]),
        "Join: boundaries must be 2 numbers for 3 schedules, got (5,); each is the step at which the next schedule "
        "begins",
    ),
    "no time after the warm-up": (
        lambda: fnopt.warmup_cosine(1.0, 10, 10),
        "warmup_cosine: warmup and total must be ints with 0 <= warmup < total, got warmup=10, total=10; both are "
        "numbers of updates, and total counts the warm-up too",
    ),
    "no time to decay": (
        lambda: fnopt.warmup_stable_decay(1.0, 1, 2, 0),
        "warmup_stable_decay: warmup, stable and decay must be ints with warmup >= 0, stable >= 0 and decay >= 1, got "
        "warmup=1, stable=2, decay=0; each is a number of updates",
    ),
    "a decay of no shape": (
        lambda: fnopt.warmup_stable_decay(1.0, 1, 2, 3, shape="exp"),
        "warmup_stable_decay: shape must be 'linear', 'cosine' or 'sqrt', got 'exp'; for another one, join linear, "
        "constant and a Schedule of your own",
    ),
    "a plateau of a Schedule": (
        lambda: fnopt.plateau(fnopt.constant(0.1)),
        "Plateau: lr must be a float or a tensor, got a Schedule: Constant(value=0.1)",
    ),
    "a metric of the wrong shape": (
        lambda: fnopt.plateau(0.1).update(torch.ones(3), fnopt.plateau(0.1).init_state()),
        "plateau: the metric has shape [3], expected []; give one number (or an lr of that shape, to have one plateau "
        "each)",
    ),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_the_whole_message(kind):
    """An error is one sentence: who refuses, what was got, what was expected, and the fix where there is one."""
    provoke, message = MESSAGES[kind]
    with pytest.raises(errors.FnoptError) as caught:
        provoke()
    assert str(caught.value) == message


def test_what_is_within_the_bounds_passes():
    """Validators let the bound itself pass."""
    field = attrs.fields(SGD).lr
    at_least(2, "it is a pair")(sgd, field, 2)
    one_of("a", "b")(sgd, field, "b")
