"""Donation: the next state is written into the memory of the last one, and nobody can read the wrong one by mistake."""

import copy
import pickle
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext

import pytest
import torch
from compile_cases import batch_of, small
from step_cases import identical, tensors, untouched
from torch.utils._pytree import tree_leaves, tree_map

from fnopt import DonatedStateError, TrainState, evolve, load_checkpoint, save_checkpoint, snapshot
from fnopt.compile import engine as engine_module
from fnopt.compile.held import hold
from fnopt.compile.interrupt import Guard
from fnopt.compile.program import Program
from fnopt.state import lent

FIELDS = ("params", "buffers", "opt_state", "loss_scale", "updates", "position", "seed", "extra")
USES = {
    **{field: lambda state, field=field: getattr(state, field) for field in FIELDS},
    "an unknown name": lambda state: state.nonsense,
    "snapshot": snapshot,
    "evolve": lambda state: evolve(state, seed=1),
    "tree_map": lambda state: tree_map(lambda leaf: leaf, state),
    "tree_leaves": tree_leaves,
    "pickle": pickle.dumps,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "save": lambda state: save_checkpoint("never.safetensors", state),
}


@pytest.fixture(scope="module")
def made():
    """(compiled step, the same without donation, a state after one step), all from one cache."""
    step, state = small()
    state, _ = step.step(state, batch_of(0))
    return step, evolve(step, donate=False), snapshot(state)


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_donated_state_says_so(use, made):
    """A donated state raises for each field and for whole uses; the message names the two ways out."""
    step, _, start = made
    state = snapshot(start)
    after, _ = step.step(state, batch_of(1))
    with pytest.raises(DonatedStateError, match=r"fnopt\.snapshot.*donate=False"):
        USES[use](state)
    again, _ = step.step(after, batch_of(2))
    with pytest.raises(DonatedStateError):
        USES[use](after)
    with pytest.raises(DonatedStateError):
        step.step(after, batch_of(2))
    assert repr(after) == "TrainState(donated)"
    assert int(again.updates) == int(start.updates) + 2


def test_the_next_state_has_the_memory_of_the_last(made):
    """The buffers of a run are the same from step to step, and two runs at once have their own."""
    step, _, start = made
    a, _ = step.step(snapshot(start), batch_of(1))
    b, _ = step.step(snapshot(start), batch_of(2))
    kept = snapshot(b)
    where = [leaf.data_ptr() for leaf in tensors(a)]
    for seed in range(3):
        a, _ = step.step(a, batch_of(seed))
    assert [leaf.data_ptr() for leaf in tensors(a)] == where
    assert identical(snapshot(b), kept)


def test_without_donation_the_old_state_stays(made):
    """donate=False gives the same bits, and every state stays what it was."""
    step, keeping, start = made
    with untouched(start):
        first, _ = keeping.step(start, batch_of(1))
        one = snapshot(first)
        with untouched(first):
            second, _ = keeping.step(first, batch_of(2))
            assert identical(snapshot(first), one)
    a, _ = step.step(snapshot(start), batch_of(1))
    assert identical(snapshot(a), one)
    b, _ = step.step(a, batch_of(2))
    assert identical(snapshot(b), snapshot(second))


def test_a_state_from_elsewhere_is_copied(made):
    """The tensors of a state that the step has not returned itself are not written to, and may be shared."""
    step, _, start = made
    params = snapshot(start).params
    with untouched(params):
        step.step(evolve(snapshot(start), params=params), batch_of(1))


def test_metrics_outlive_the_next_step(made):
    """Metrics are values: the next step does not change them."""
    step, _, start = made
    state, metrics = step.step(snapshot(start), batch_of(1))
    kept = {name: leaf.clone() for name, leaf in metrics.items()}
    step.step(state, batch_of(2))
    assert identical(metrics, kept)


def test_a_returned_state_is_a_train_state(made, tmp_path):
    """It has the user's names, compares, evolves, copies, pickles small, and goes through a checkpoint and back."""
    step, _, start = made
    state, _ = step.step(snapshot(start), batch_of(1))
    assert type(state) is TrainState
    assert list(state.params) == ["w", "v"]
    assert {name: leaf.shape for name, leaf in state.opt_state["exp_avg"].items()} == {"w": (6,), "v": (2, 2)}
    whole = snapshot(state)
    assert state == whole
    assert evolve(state, seed=9).params["w"] is state.params["w"]
    for other in (copy.deepcopy(state), copy.copy(state), pickle.loads(pickle.dumps(state))):
        assert identical(other, whole)
    large = step.init_state({name: torch.randn(30, 30) for name in "abcdef"})
    packed = lent(hold(step.inner, large), 0, 0)
    assert identical(pickle.loads(pickle.dumps(packed)), evolve(large, seed=0))
    assert len(pickle.dumps(packed)) < 1.1 * len(pickle.dumps(large))  # a view alone would take all six along
    save_checkpoint(tmp_path / "state.safetensors", state)
    loaded = load_checkpoint(tmp_path / "state.safetensors", like=state)
    assert identical(loaded, whole)
    a, _ = step.step(state, batch_of(2))
    b, _ = step.step(loaded, batch_of(2))
    assert identical(snapshot(a), snapshot(b))


def test_what_a_user_puts_into_a_state_counts(made):
    """Other tensors put into a returned state, or other values into its tensors, are what the next step sees."""
    step, _, start = made
    ends = []
    for way in ("evolve", "dict", "in place"):
        state, _ = step.step(snapshot(start), batch_of(1))
        new = {"w": torch.full((6,), 3.0), "v": torch.full((2, 2), -1.0)}
        if way == "evolve":
            state = evolve(state, params=new)
        elif way == "dict":
            state.params.update(new)
        else:
            for name, leaf in state.params.items():
                leaf.copy_(new[name])
        ends.append(snapshot(step.step(state, batch_of(2))[0]))
    assert identical(ends[0], ends[1])
    assert identical(ends[0], ends[2])
    assert not identical(ends[0], snapshot(step.step(snapshot(start), batch_of(2))[0]))


@contextmanager
def interrupted_at(line):
    """Ctrl-C at the n-th line of Python that runs inside, whose ever it is."""
    left = [line]

    def trace(frame, event, _):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(before)


def test_ctrl_c_loses_nothing(made):
    """After Ctrl-C at any line of a step, `last_state` is the old state or the new one, whole."""
    step, _, start = made
    olds = snapshot(step.step(snapshot(start), batch_of(1))[0])
    news = snapshot(step.step(snapshot(olds), batch_of(2))[0])
    found, line = {"old": 0, "new": 0}, 0
    while True:
        state, _ = step.step(snapshot(start), batch_of(1))
        line += 1
        try:
            with interrupted_at(line) as left:
                step.step(state, batch_of(2))
        except KeyboardInterrupt:
            pass
        if left[0] > 0:
            break
        seen = "new" if step.last_state.position == news.position else "old"
        found[seen] += 1
        assert identical(snapshot(step.last_state), {"old": olds, "new": news}[seen])
    assert min(found.values()) > 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_the_kernels_waits(made, monkeypatch):
    """Ctrl-C among the kernels is raised after the hand-over; without the guard it leaves half a state, and says so."""
    step, _, start = made
    run = Program.__call__

    def pressed(self, inputs):
        signal.raise_signal(signal.SIGINT)
        return run(self, inputs)

    state, _ = step.step(snapshot(start), batch_of(1))
    monkeypatch.setattr(Program, "__call__", pressed)
    with pytest.raises(KeyboardInterrupt):
        step.step(state, batch_of(2))
    assert step.last_state.position == start.position + 2
    with pytest.raises(DonatedStateError):
        _ = state.params

    monkeypatch.setattr(engine_module, "Guard", nullcontext)
    with pytest.raises(KeyboardInterrupt) as caught:
        step.step(step.last_state, batch_of(2))
    assert step.last_state is None
    assert "load a checkpoint" in caught.value.__notes__[0]


def test_the_guard_leaves_handlers_as_they_were():
    """Handlers set by anyone are back after a block, also one that raises; other threads have none to set."""
    for handler in (signal.default_int_handler, signal.SIG_IGN, lambda *_: None):
        before = signal.signal(signal.SIGINT, handler)
        try:
            with pytest.raises(ZeroDivisionError), Guard():
                raise ZeroDivisionError
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)
    errors = []
    thread = threading.Thread(target=lambda: errors.append(Guard().__enter__()))
    thread.start()
    thread.join()
    assert errors == [None]
