"""EarlyStopping: it stops when it should, and a resumed run where the uninterrupted one does."""

import json
import math

import pytest
from callback_cases import view
from hypothesis import given
from hypothesis import strategies as st

import fnopt
from fnopt.callbacks import EarlyStopping

LOSSES = st.lists(st.one_of(st.floats(-2, 2), st.just(math.nan), st.just(math.inf)), max_size=20)


def told(stopping, losses, begin=0):
    """What it says after each validation."""
    return [stopping.on_validate(view(begin + n, validation={"loss": loss})) for n, loss in enumerate(losses, start=1)]


def reference(losses, patience, min_delta):
    """The same from the definition: by looking at all that came before, each time."""
    said, best, waited = [], None, 0
    for loss in losses:
        better = math.isfinite(loss) and (best is None or best - loss > min_delta)
        best, waited = (loss, 0) if better else (best, waited + 1)
        said.append(waited >= patience)
    return said


@given(LOSSES, st.integers(1, 4), st.sampled_from([0.0, 0.5]), st.sampled_from(["min", "max"]))
def test_it_stops_after_so_many_validations_without_a_gain(losses, patience, min_delta, mode):
    """After each validation it says what the definition says; "max" is "min" of the negative."""
    sign = 1 if mode == "min" else -1
    stopping = EarlyStopping("loss", patience, mode=mode, min_delta=min_delta)
    assert told(stopping, [sign * loss for loss in losses]) == reference(losses, patience, min_delta)


@given(LOSSES, st.integers(0, 20))
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(losses, cut):
    """With what `state_dict` gave, through JSON, another one goes on as if nothing had been; without, it would not."""
    whole = told(EarlyStopping(patience=2), losses)
    first, second = EarlyStopping(patience=2), EarlyStopping(patience=2)
    said = told(first, losses[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert said + told(second, losses[cut:], begin=min(cut, len(losses))) == whole


def test_without_its_state_a_resumed_run_stops_later():
    """Negative control: a fresh one in the place of the resumed one forgets the best, and how long it waited."""
    losses = [1.0, 2.0, 3.0, 4.0]
    assert told(EarlyStopping(patience=2), losses)[2]
    told(EarlyStopping(patience=2), losses[:2])
    assert not told(EarlyStopping(patience=2), losses[2:], begin=2)[0]


def test_a_validation_that_is_repeated_counts_once():
    """A resumed run may validate again where it begins: the same position is the same validation."""
    stopping = EarlyStopping(patience=2)
    shown = [view(n, validation={"loss": 1.0}) for n in (1, 2, 2, 2, 3)]
    assert [stopping.on_validate(one) for one in shown] == [False, False, False, False, True]


WRONG = {
    "patience": (lambda: EarlyStopping(patience=0), "EarlyStopping: patience must be an int >= 1, got 0"),
    "mode": (lambda: EarlyStopping(mode="low"), 'EarlyStopping: mode must be "min" or "max", got \'low\''),
    "min_delta": (lambda: EarlyStopping(min_delta=-1.0), "EarlyStopping: min_delta must be finite and >= 0, got -1.0"),
    "metric": (
        lambda: EarlyStopping("acc").on_validate(view(1, validation={"loss": 1.0, "accuracy": 0.5})),
        "EarlyStopping: the validation has no metric 'acc', expected one of ['accuracy', 'loss']; report it as an aux "
        "of the loss",
    ),
    "state": (
        lambda: EarlyStopping().load_state_dict({"best": 1.0}),
        "EarlyStopping: the state has ['best'], expected ['best', 'position', 'waited']; give what state_dict() "
        "returned",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_are_refused(kind):
    """The whole message: what was got, what was expected, and the fix."""
    provoke, message = WRONG[kind]
    with pytest.raises(fnopt.FnoptError) as caught:
        provoke()
    assert str(caught.value) == message
