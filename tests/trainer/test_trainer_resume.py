"""Runs that stop: at signals, errors and kills, and go on as if they had not."""

import signal
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, WeightedRandomSampler
from trainer_cases import bits, dataset, trained, trainer

import fnopt
from fnopt.stream import ReplayWarning

HANDLERS = (signal.SIGINT, signal.SIGTERM)


class At:
    """At this position, do something."""

    def __init__(self, position, act):
        self.position, self.act = position, act

    def on_update(self, view):
        if view.position == self.position:
            self.act(view)


def raise_signal(number):
    return lambda view: signal.raise_signal(number)


def plateau():
    return fnopt.plateau(0.05, factor=0.5, patience=0)


def custom():
    sampler = WeightedRandomSampler(torch.rand(22, generator=torch.Generator().manual_seed(0)), 22)
    return DataLoader(dataset(), batch_size=4, sampler=sampler)


RUNS = {
    "plain": lambda: {},
    "accumulated, fp16": lambda: {"grad_accum_steps": 2, "precision": "fp16", "max_epochs": 6},
    "plateau": lambda: {"scheduler": plateau()},
    "early stop": lambda: {"callbacks": [fnopt.callbacks.EarlyStopping(patience=1, min_delta=0.2)]},
    "custom sampler": lambda: {"train_loader": custom()},
    "every 4": lambda: {"eval_interval": 4},
}


def end_of(run, folder=None, act=None, position=None):
    """The state at the end of this run, stopped and resumed on the way if told so."""
    arguments = run()
    if act is None:
        return bits(trained(**arguments))
    own = [*arguments.pop("callbacks", []), At(position, act)]
    first = trainer(**arguments, callbacks=own, save_dir=folder)
    with pytest.raises((SystemExit, ZeroDivisionError)):
        first.train()
    del first
    again = trainer(**run(), save_dir=folder)
    again.load_checkpoint()
    again.train()
    return bits(again.state)


@pytest.mark.filterwarnings("ignore::fnopt.stream.ReplayWarning")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_by_a_signal_goes_on_to_the_bit(name, tmp_path):
    """SIGTERM ends it after the step, saved; the resumed run ends where the uninterrupted one does."""
    whole = end_of(RUNS[name])
    for position in (4, 6):
        folder = tmp_path / str(position)
        assert end_of(RUNS[name], folder, raise_signal(signal.SIGTERM), position) == whole


@pytest.mark.slow
@settings(max_examples=40)
@pytest.mark.filterwarnings("ignore::fnopt.stream.ReplayWarning")
@given(name=st.sampled_from(sorted(RUNS)), position=st.integers(1, 17), number=st.sampled_from(HANDLERS))
def test_at_any_step(name, position, number, tmp_path_factory):
    """Wherever it stops, and by which signal; an early stop may come first."""
    folder = tmp_path_factory.mktemp("run")
    arguments = RUNS[name]()
    own = [*arguments.pop("callbacks", []), At(position, raise_signal(number))]
    first = trainer(**arguments, callbacks=own, save_dir=folder)
    try:
        first.train()
    except SystemExit:
        first = trainer(**RUNS[name](), save_dir=folder)
        first.load_checkpoint()
        first.train()
    assert bits(first.state) == end_of(RUNS[name])


def test_a_run_that_raised_goes_on_from_its_last_checkpoint(tmp_path):
    """An exception in a callback leaves the files whole, as a kill does."""
    assert end_of(RUNS["plain"], tmp_path, lambda view: 1 / 0, position=9) == end_of(RUNS["plain"])


def test_another_seed_is_refused(tmp_path):
    """Negative control: the order of the data is part of the run."""
    trained(save_dir=tmp_path, seed=1)
    with pytest.raises(fnopt.FnoptError, match=r"of a run with seed 1, got seed=0; give Trainer\(seed=1\)"):
        trainer(save_dir=tmp_path).load_checkpoint()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_program_exits_with_the_status_of_the_signal(number, status, tmp_path, capsys):
    """And says where the run is saved; the handlers are those from before."""
    before = [signal.getsignal(one) for one in HANDLERS]
    made = trainer(callbacks=[At(3, raise_signal(number))], save_dir=tmp_path)
    with pytest.raises(SystemExit) as end:
        made.train()
    assert end.value.code == status
    assert f"stopped by {number.name}; saved {tmp_path}" in capsys.readouterr().err
    assert [signal.getsignal(one) for one in HANDLERS] == before
    assert (tmp_path / "step-0000000003.safetensors").exists()


@pytest.mark.parametrize("number", HANDLERS)
def test_a_notebook_goes_on(number, monkeypatch):
    """At a prompt train() returns after the step: no exit, no handler left; train() goes on to the same bits."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = [signal.getsignal(one) for one in HANDLERS]
    made = trainer(callbacks=[At(3, raise_signal(number))])
    made.train()
    assert made.state.position == 3
    assert torch.equal(made.model[0].weight, made.state.params["0.weight"])
    assert [signal.getsignal(one) for one in HANDLERS] == before
    made.train()
    assert bits(made.state) == bits(trained())


def test_loading_writes_the_weights_at_once(tmp_path):
    """best.safetensors, by hand or by validation, is a whole state: the model has its weights, and train() goes on."""
    made = trainer(save_dir=tmp_path)
    made.train()
    made.save_checkpoint(is_best=True)
    other = trainer(save_dir=tmp_path)
    other.load_checkpoint(tmp_path / "best.safetensors")
    assert torch.equal(other.model[0].weight, made.model[0].weight)
    assert bits(other.state) == bits(made.state)
    longer = trainer(save_dir=tmp_path, max_epochs=4)
    longer.load_checkpoint()
    longer.train()
    assert bits(longer.state) == bits(trained(max_epochs=4))


def test_a_folder_of_an_earlier_run_is_not_mixed_with_another(tmp_path):
    """A fresh run into it is refused, with both ways out; two trainers of one process may take turns."""
    trained(save_dir=tmp_path)
    with pytest.raises(fnopt.FnoptError, match=r"of an earlier run.*trainer.load_checkpoint\(\), or name another"):
        trained(save_dir=tmp_path)


def test_other_windows_are_announced(tmp_path, capsys):
    """A resume with another number of updates per epoch sees other data, and says so."""
    trained(save_dir=tmp_path)
    trainer(save_dir=tmp_path, grad_accum_steps=2, progress=True).load_checkpoint()
    assert "with 6 updates per epoch, this one has 3" in capsys.readouterr().out


def test_a_custom_sampler_is_replayed_and_announced(tmp_path):
    """The plan says that it is kept, a resume that it replays."""
    first = trainer(train_loader=custom(), max_steps=4, save_dir=tmp_path)
    assert "custom sampler WeightedRandomSampler" in str(first.plan())
    first.train()
    again = trainer(train_loader=custom(), max_steps=8, save_dir=tmp_path)
    again.load_checkpoint()
    with pytest.warns(ReplayWarning, match="replaying 4 items"):
        again.train()


@pytest.mark.slow
def test_a_compiled_run_left_in_the_middle_keeps_what_is_whole():
    """Ctrl-C twice in a compiled run: the state is that of a whole step, and the model holds it."""

    def twice(view):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    made = trainer(compile=True, callbacks=[At(3, twice)])
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert made.state.position == 3
    assert torch.equal(made.model[0].weight, made.state.params["0.weight"])


def compiled_run():
    """One with a smaller tail in each of its three epochs."""
    return {"compile": True, "val_loader": None}


@pytest.mark.slow
@pytest.mark.parametrize("position", [5, 14])
def test_a_compiled_run_goes_on_to_the_bit(position, tmp_path):
    """Its kernels are those of the uninterrupted run, also for the tail of an epoch, whatever it has seen before."""
    assert end_of(compiled_run, tmp_path, raise_signal(signal.SIGTERM), position) == end_of(compiled_run)


@pytest.mark.slow
def test_a_run_that_compiles_what_it_sees_twice_would_not(tmp_path, monkeypatch):
    """Negative control: where the first tail of a process runs eagerly, the resumed run ends elsewhere."""
    composing = sys.modules["fnopt.trainer.composing"]
    monkeypatch.setattr(composing, "compiled", lambda step, at_once: fnopt.compiled(step))
    assert end_of(compiled_run, tmp_path, raise_signal(signal.SIGTERM), 14) != end_of(compiled_run)


@pytest.mark.parametrize("explicit", [False, True])
def test_a_file_from_another_environment_is_told(tmp_path, explicit, one_thread):
    """The run goes on, and a warning names what its last bits depend on; in its own environment there is none."""
    begun = trained(save_dir=tmp_path, max_epochs=1)
    path = max(tmp_path.glob("step-*")) if explicit else None
    again = trainer(save_dir=tmp_path, max_epochs=2)
    again.load_checkpoint(path)
    torch.set_num_threads(2)
    with pytest.warns(fnopt.CheckpointWarning, match="from another environment: threads 1, here 2; the run goes on"):
        again.load_checkpoint(path)
    assert bits(again.state) == bits(begun)
