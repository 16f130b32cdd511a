"""What a run reports of itself: update ratios, tokens, early stops, plateaus, validations that are not finite."""

import math
import os
import re
import signal
import subprocess
import sys
import types

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainer_cases import Recorder, dataset, loss, model, trained, trainer

import fnopt
from fnopt.record import same
from fnopt.trainer.surroundings import is_program


def norm(tensors):
    return torch.cat([leaf.flatten() for leaf in tensors]).norm().item()


def test_the_update_ratio_is_the_change_by_what_was_changed():
    """Of all params together, at each step; and the run ends at the same weights with it as without."""
    found = []

    class Ratios:
        before = None

        def on_update(self, view):
            now = {name: leaf.clone() for name, leaf in view.state.params.items()}
            if self.before is not None:
                change = norm([now[name] - leaf for name, leaf in self.before.items()])
                found.append((view.metrics["update_ratio"].item(), change / norm(self.before.values())))
            self.before = now

    given = {"optimizer": fnopt.ema(fnopt.AdamW(0.05), 0.9), "max_grad_norm": 1.0}
    watched = trained(update_ratio=True, callbacks=[Ratios()], **given)
    assert len(found) == 17
    assert [a for a, _ in found] == pytest.approx([b for _, b in found], rel=1e-5)
    assert same(watched.params, trained(**given).params)


def test_a_torch_optimizer_goes_on_with_its_state_under_it():
    """What an AdamW of torch remembers is taken along, as without."""
    states = []
    for watched in (False, True):
        own = model()
        optimizer = torch.optim.AdamW(own.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            loss(own.eval(), dataset()[:8])[0].backward()
            optimizer.step()
        states.append(trained(model=own.train(), optimizer=optimizer, max_grad_norm=1.0, update_ratio=watched))
    assert same(states[0].params, states[1].params)


def sequences(labels):
    tokens = torch.randint(9, (20, 7), generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(tokens, tokens if labels else tokens[:, 0]), batch_size=4)


def test_tokens_are_planned_and_counted_where_they_are_known(capsys):
    """Sequences of integers with a label each are tokens; one label for a sequence, or floats, are samples."""
    own = nn.Sequential(nn.Embedding(9, 9))
    given = {"model": own, "optimizer": fnopt.SGD(0.1), "val_loader": None, "loss": None, "progress": True}
    made = trainer(train_loader=sequences(labels=True), **given)
    assert "samples:     60 (420 tokens)" in str(made.plan())
    made.train()
    assert made.plan().tokens == 420
    assert "tokens/s" in capsys.readouterr().out
    assert trainer(train_loader=sequences(labels=False), **given).plan().tokens is None
    trained(progress=True)
    assert "samples/s" in capsys.readouterr().out


def test_an_early_stop_names_who_asked(capsys):
    """The line says where the run stands, and which callback it was."""
    trained(callbacks=[fnopt.callbacks.EarlyStopping(patience=1, min_delta=9.0)], progress=True)
    assert "stopped at update 12 of 18: EarlyStopping asked\n" in capsys.readouterr().out


def test_a_plateau_says_when_it_lowers_the_rate(capsys):
    """Not at validations that change nothing."""
    trained(
        scheduler=fnopt.plateau(0.05, factor=0.5, patience=0, threshold=9.0, threshold_mode="abs"),
        progress=True,
        max_epochs=3,
    )
    said = re.findall(r"update (\d+): (lr .*), as the validation", capsys.readouterr().out)
    assert said == [("12", "lr 0.05 -> 0.025"), ("18", "lr 0.025 -> 0.0125")]


def test_a_validation_that_is_not_finite_is_saved_and_never_the_best(tmp_path):
    """The run goes on, its files are whole, and nothing is called the best."""

    def nan(model, batch):
        total, weight, aux = loss(model, batch)
        return total if model.training else total * math.nan, weight, aux

    trained(loss=nan, save_dir=tmp_path)
    assert not (tmp_path / "best.safetensors").exists()
    made = trainer(loss=nan, save_dir=tmp_path)
    made.load_checkpoint()
    assert math.isnan(made.train()["loss"])


def test_best_holds_what_was_validated(tmp_path):
    """With an average, best.safetensors has it for params; the checkpoint that it names has the weights in training."""
    given = {"optimizer": fnopt.ema(fnopt.AdamW(0.01), 0.9), "save_dir": tmp_path}
    made = trainer(**given)
    measured = made.train()
    info = fnopt.read_info(tmp_path / "best.safetensors")
    assert (info["position"], info["info"]["marks"]["best"]) == (18, measured["loss"])
    trained_weights, average = made.state.params, made.step.eval_params(made.state)
    again = trainer(**given)
    again.load_checkpoint(tmp_path / "best.safetensors")
    assert same(again.state.params, average)
    assert not same(average, trained_weights)
    assert again.evaluate() == measured
    again.load_checkpoint(tmp_path / re.search(r"step-\d+\.safetensors", info["info"]["weights"])[0])
    assert same(again.state.params, trained_weights)


def test_a_stop_of_ones_own_is_asked(tmp_path):
    """train(stop) returns after the step, saved, without an exit; the caller decides."""

    class At:
        def on_update(self, view):
            if view.position == 4:
                signal.raise_signal(signal.SIGTERM)

    made = trainer(callbacks=[At()], save_dir=tmp_path)
    with fnopt.stop_on_signal() as stop:
        made.train(stop)
    assert (stop.status, made.state.position) == (143, 4)
    assert (tmp_path / "step-0000000004.safetensors").exists()


def test_save_interval_and_the_best(tmp_path):
    """Checkpoints come at their own interval, after the best validations, and at the end."""
    trained(callbacks=[seen := Recorder()], save_dir=tmp_path, save_interval=4, eval_interval=9, keep=9)
    saved = {int(path.stem[5:]) for path in tmp_path.glob("step-*")}
    assert saved == {4, 8, 9, 12, 16, 18}
    assert seen.events.count("validate") == 2


def test_a_notebook_has_no_file(monkeypatch):
    """A kernel runs code in a __main__ without a file: not to be ended; nor is a prompt. A script and `-c` are."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert is_program()
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert not is_program()
    monkeypatch.setattr(sys, "argv", ["-c"])
    assert is_program()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "ps1", ">>> ", raising=False)
        assert not is_program()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = object
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert not is_program()


KERNEL = """
import signal, sys, types
sys.argv, main = ["launcher.py"], types.ModuleType("__main__")
sys.modules["__main__"] = main
cells = [
    "import signal, torch, fnopt; from trainer_cases import trainer; before = signal.getsignal(signal.SIGINT)",
    "class At:\\n    def on_update(self, view):\\n        view.position == 3 and signal.raise_signal(signal.SIGINT)",
    "made = trainer(callbacks=[At()]); made.train(); first = made.state.position",
    "made.train(); print(first, made.state.position, signal.getsignal(signal.SIGINT) is before)",
]
for cell in cells:
    exec(cell, vars(main))
"""


@pytest.mark.slow
def test_cells_of_a_notebook_go_on_after_an_interrupt():
    """Where __main__ has no file: no exit, the handler is that from before, and the next cell trains to the end."""
    run = [sys.executable, "-c", KERNEL]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(run, capture_output=True, text=True, env=where, check=False)
    assert (done.returncode, done.stdout) == (0, "3 18 True\n"), done.stderr
