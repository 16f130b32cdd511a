"""Asynchronous saves: the file is the state as it was when `save` was called, and no error is lost."""

import threading

import pytest
import torch
from checkpoint_cases import fingerprint, small_state
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_cases import LIKE, Failing, Gate, at, positions

from fnopt import CheckpointManager, CheckpointWarning, load_checkpoint, save_checkpoint, snapshot
from fnopt.checkpoint.file import Encoded
from fnopt.checkpoint.names import flatten
from fnopt.errors import CheckpointWriteError, UsageError
from fnopt.state import TrainState


def overwrite(state):
    """Write other values into every tensor of a state, in place."""
    for leaf in flatten("test", state).values():
        if leaf is not None:
            leaf.fill_(7)


def saved_and_overwritten(folder, state):
    """Is the file of an asynchronous save what the state was, if the state changes before a byte is written?"""
    before, gate = fingerprint(snapshot(state)), Gate()
    with CheckpointManager(folder, asynchronous=True, fs=gate.fs) as manager:
        path = manager.save(state)
        overwrite(state)
        gate.opened.set()
    return fingerprint(load_checkpoint(path, like=state, allow_nonfinite=True)) == before


def drawn(seed):
    """A state with leaves of several dtypes and layouts."""
    state = small_state(seed)
    state.extra.update(half=torch.arange(3, dtype=torch.bfloat16), scalar=torch.tensor(1.5), none=torch.zeros(0))
    return state


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_a_save_is_a_snapshot(seed, tmp_path_factory):
    """Every tensor may be written right after `save` returns: the file has the bits from before."""
    assert saved_and_overwritten(tmp_path_factory.mktemp("run"), drawn(seed))


@pytest.mark.slow
def test_a_thousand_saves_are_snapshots(tmp_path):
    """The law above, 1,000 times."""
    assert all(saved_and_overwritten(tmp_path / str(seed), drawn(seed)) for seed in range(1000))


def test_a_save_without_a_copy_is_seen(tmp_path, monkeypatch):
    """Negative control: without the copy, the file has the bits from after."""
    monkeypatch.setattr(Encoded, "copied", lambda self: self)
    assert not saved_and_overwritten(tmp_path, drawn(0))


def test_views_of_a_buffer_that_is_written_on_are_copied(tmp_path):
    """The tensors of a donated state are views of memory that the next step writes to: they are copied too."""
    buffer, gate = torch.arange(8.0), Gate()
    state = TrainState.of({"a": buffer[:4].view(2, 2), "b": buffer[4:]})
    with CheckpointManager(tmp_path, asynchronous=True, fs=gate.fs) as manager:
        path = manager.save(state)
        buffer.zero_()
        gate.opened.set()
    assert load_checkpoint(path, like=state).params["b"].tolist() == [4.0, 5.0, 6.0, 7.0]


@pytest.mark.slow
def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """A compiled step that takes the memory of the state right after `save` changes nothing in the file."""
    import fnopt

    step = fnopt.make_step(
        fnopt.value_and_grad(lambda params, x: (((params["w"] - x) ** 2).sum(), len(x))), fnopt.AdamW(lr=0.1)
    )
    compiled, gate = fnopt.compiled(step), Gate()
    state, _ = compiled.step(compiled.init_state({"w": torch.ones(4)}), torch.zeros(4))
    before = fingerprint(snapshot(state))
    with CheckpointManager(tmp_path, asynchronous=True, fs=gate.fs) as manager:
        path = manager.save(state)
        for _ in range(3):
            state, _ = compiled.step(state, torch.zeros(4))
        gate.opened.set()
    assert fingerprint(load_checkpoint(path, like=snapshot(state))) == before


def test_the_file_is_that_of_a_save_that_waits(tmp_path):
    """Asynchronous or not, the bytes are equal."""
    files = []
    for asynchronous in (False, True):
        with CheckpointManager(tmp_path / str(asynchronous), asynchronous=asynchronous) as manager:
            files.append(manager.save(drawn(1), metric=0.5, info={"lr": 0.1}))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_save_returns_before_the_file_is_there_and_close_waits(tmp_path):
    """`save` does not wait for the disk; `latest`, the next save and `close` do."""
    gate = Gate()
    manager = CheckpointManager(tmp_path, keep=1, asynchronous=True, fs=gate.fs)
    path = manager.save(at(1))
    assert not path.exists()
    threading.Timer(0.05, gate.opened.set).start()
    assert manager.latest() == path
    gate.opened.clear()
    manager.save(at(2))
    threading.Timer(0.05, gate.opened.set).start()
    manager.save(at(3))
    manager.close()
    assert positions(tmp_path) == [3]


CALLS = {
    "save": lambda manager: manager.save(at(2)),
    "latest": CheckpointManager.latest,
    "best": CheckpointManager.best,
    "restore": lambda manager: manager.restore(LIKE),
    "close": CheckpointManager.close,
}


@pytest.mark.parametrize("call", CALLS)
def test_an_error_is_raised_by_the_next_call_and_once(call, tmp_path):
    """Whatever is called next raises it, and does nothing else; after that, the manager goes on."""
    disk = Failing()
    manager = CheckpointManager(tmp_path, asynchronous=True, fs=disk.fs)
    good = manager.save(at(0))
    manager.latest()
    disk.on.add("fsync")
    manager.save(at(1))
    manager._saves._thread.join()
    disk.on.clear()
    with pytest.raises(CheckpointWriteError, match="Input/output error"):
        CALLS[call](manager)
    assert positions(tmp_path) == [0]
    if call != "close":
        assert manager.latest() == good
        manager.save(at(3))
    manager.close()
    assert positions(tmp_path) == ([0] if call == "close" else [0, 3])


def test_the_end_of_with_raises_it_too_but_hides_no_other_error(tmp_path):
    """An error of the last save comes out of `with`; where the body failed, it is a note on that error."""
    disk = Failing()

    def body(error):
        with CheckpointManager(tmp_path, asynchronous=True, fs=disk.fs) as manager:
            disk.on.add("fsync")
            manager.save(at(1))
            if error:
                raise error

    with pytest.raises(CheckpointWriteError):
        body(None)
    disk.on.clear()
    with pytest.raises(ZeroDivisionError) as caught:
        body(ZeroDivisionError())
    assert "the last checkpoint was not saved: cannot write" in caught.value.__notes__[0]
    disk.on.clear()
    CheckpointManager(tmp_path).close()


def test_a_thread_that_swallows_its_error_is_seen(tmp_path, monkeypatch):
    """Negative control: if the thread keeps its error to itself, nothing is raised."""
    monkeypatch.setattr("fnopt.checkpoint.background.Background._run", lambda self, work: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_the_end_of_with_raises_it_too_but_hides_no_other_error(tmp_path)


def test_a_manager_that_nobody_closes_says_what_was_lost(tmp_path):
    """Its end waits for the save, and warns of an error that nobody can be handed any more."""
    disk = Failing()
    managers = [CheckpointManager(tmp_path, asynchronous=True, fs=disk.fs)]
    disk.on.add("fsync")
    managers[0].save(at(1))
    with pytest.warns(CheckpointWarning, match="never closed, and its last save was lost: cannot write"):
        managers.clear()


def test_what_is_no_state_is_refused_at_once(tmp_path):
    """Mistakes of the caller are raised by the call that makes them, not by the thread."""
    with CheckpointManager(tmp_path, asynchronous=True) as manager:
        with pytest.raises(UsageError, match="info has the key 1"):
            manager.save(at(1), info={1: 2})
        with pytest.raises(UsageError, match="expected a TrainState"):
            manager.save(None)
        assert manager.latest() is None
    assert save_checkpoint(tmp_path / "a", at(1)).exists()
