"""on_nonfinite="rollback": back to a state that was good, on with the data that comes next, and not for ever."""

import itertools

import pytest
import torch
from step_cases import ended, identical, untouched

from fnopt import (
    AdamW,
    DynamicLossScale,
    NonFiniteError,
    RollbackWarning,
    compiled,
    ema,
    ensemble,
    evolve,
    make_step,
    run,
    snapshot,
    value_and_grad,
    watch,
)

PATIENCE = 4


def cliff(params, x):
    """The logarithm of a positive number: beyond 0 everything is nan, for ever."""
    noise = torch.rand(())  # a part of the state: a function of (seed, position)
    return (-params["w"].log() + (0.01 + 0.001 * noise) * (params["w"] * x).sum()) * len(x), len(x)


class Pushing:
    """Batches of which those at some positions push the parameter over the cliff; notes what was drawn."""

    def __init__(self, *pushes, bad=()):
        self.pushes, self.bad, self.drawn = pushes, bad, []

    def at(self, position):
        value = float("nan") if position in self.bad else 1e9 if position in self.pushes else 0.1 * (position % 7)
        return torch.full((2,), value)

    def iter_from(self, position):
        for place in itertools.count(position):
            self.drawn.append(place)
            yield self.at(place)


def falling(way=lambda step: step):
    """(step, state): everything that a state can hold; eps makes updates of about a millionth of the gradient."""
    optimizer = ema(AdamW(1.0, betas=(0.0, 0.0), eps=1e6, weight_decay=0.0), 0.9)
    made = make_step(value_and_grad(cliff), optimizer, loss_scale=DynamicLossScale(4.0, growth_interval=3))
    step = way(made)
    return step, step.init_state({"w": torch.tensor(0.5)}, seed=3)


WAYS = {
    "eager": lambda step: step,
    "compiled": compiled,
    "ensemble": lambda step: ensemble(step, 2),
    "compiled ensemble": lambda step: compiled(ensemble(step, 2)),
}


def rolling(step, state, data, updates):
    """A run that goes back."""
    return run(step, state, data, updates, patience=PATIENCE, on_nonfinite="rollback")


def by_hand(step, state, data, plan):
    """The same run as a loop that knows when to copy, and when to go back."""
    kept, position = None, 0
    for action in plan:
        if action == "copy":
            kept = snapshot(state)
        elif action == "back":
            state = evolve(snapshot(kept), position=position)
        else:
            state, _ = step.step(state, data.at(state.position))
            position = state.position
    return state


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_back_to_the_last_good_state_and_on_with_other_data(way, monkeypatch):
    """The state after a push over the cliff is the copy's, all of it but the position; data is drawn once each."""
    monkeypatch.setattr(watch, "SPACING", 4)
    data = Pushing(9)
    step, first = falling(WAYS[way])
    # looks come after 4, 8, 12 steps; a copy is made before a look, the first after 4 steps: before the 8th
    plan = ["step"] * 7 + ["copy"] + ["step"] * 7 + ["back"] + ["step"] * 6
    expected = snapshot(by_hand(step, snapshot(first), data, plan))
    with pytest.warns(RollbackWarning) as caught:
        state = ended(rolling(step, snapshot(first), data, int(expected.updates.max())))
    assert identical(snapshot(state), expected)
    assert data.drawn == list(range(state.position))
    (warning,) = [str(each.message) for each in caught]
    assert "the last 4 steps were all skipped; at position 13" in warning
    assert "going back from update 10 to 7, and on with the data from position 14 (rollback 1 of at most 3" in warning
    assert caught[0].filename.endswith("step_cases.py")  # who drives the run


def test_a_state_after_which_nothing_was_finite_is_not_kept(monkeypatch):
    """The control: a copy that is taken for good because it is finite itself is the bad state; no rollback helps."""
    monkeypatch.setattr(watch, "SPACING", 4)
    step, state = falling()
    data = Pushing(6)  # the copy before the 8th step is of the state that is over the cliff already
    with pytest.warns(RollbackWarning, match="going back from update 7 to 0"):
        state = ended(rolling(step, state, data, 12))
    assert int(state.updates) == 12

    after = watch.Watch.after

    def hasty(self, state, batch, metrics):
        if self._next is not None:
            self.good = self._next
        return after(self, state, batch, metrics)

    monkeypatch.setattr(watch.Watch, "after", hasty)
    step, state = falling()
    with pytest.warns(RollbackWarning), pytest.raises(NonFiniteError, match="3 rollbacks did not help"):
        ended(rolling(step, state, data, 12))


def test_it_is_bounded():
    """Three times to one state, each announced once; then the error, and the state that was given is as it was."""
    step, state = falling()
    data = Pushing(bad=range(1000))
    with untouched(state), pytest.warns(RollbackWarning) as caught, pytest.raises(NonFiniteError) as error:
        ended(rolling(step, state, data, 5))
    assert [f"rollback {n} of" in str(each.message) for n, each in enumerate(caught, 1)] == [True] * 3
    assert error.value.report.position == 4 * PATIENCE - 1
    assert len(data.drawn) == 4 * PATIENCE


def test_a_state_that_is_bad_itself_is_no_way_back():
    """Where the run began with a parameter that is not finite, the error comes at once."""
    step, state = falling()
    state = evolve(state, params={"w": torch.tensor(float("inf"))})
    with pytest.raises(NonFiniteError, match="parameters not finite: w"):  # a warning would be another error
        ended(rolling(step, state, Pushing(), 5))


def test_progress_renews_the_number_of_rollbacks(monkeypatch):
    """A long run may fall more than three times, if it gets on between."""
    monkeypatch.setattr(watch, "SPACING", 4)
    step, state = falling()
    data = Pushing(*range(17, 200, 33))
    with pytest.warns(RollbackWarning) as caught:
        state = ended(rolling(step, state, data, 120))
    assert len(caught) > 3
    assert int(state.updates) == 120


@pytest.mark.parametrize("way", WAYS)
def test_a_sound_run_has_the_same_bits(way, monkeypatch):
    """Copies change nothing of a run that needs none."""
    monkeypatch.setattr(watch, "SPACING", 3)
    ends = []
    for on_nonfinite in ("raise", "rollback"):
        step, state = falling(WAYS[way])
        ends.append(snapshot(ended(run(step, state, Pushing(), 12, patience=PATIENCE, on_nonfinite=on_nonfinite))))
    assert identical(*ends)
