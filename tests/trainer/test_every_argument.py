"""One row for each argument of Trainer: another value of it, and what then comes out otherwise."""

import warnings

import attrs
import pytest
import torch
from torch.utils.data import DataLoader
from trainer_cases import Recorder, bits, dataset, loss, model, trained, trainer

import fnopt

SGD, DEFAULT = fnopt.SGD(0.1), object()


@attrs.frozen
class Row:
    """What is given beside, and of the argument itself: one value (nothing: the default), then another."""

    outcome: object
    other: object
    one: object = DEFAULT
    beside: object = attrs.field(factory=dict)


# Outcomes: functions of arguments, a folder, and what was printed since


def end(given, folder, printed):
    """All numbers of the run at its end."""
    return bits(trained(**given))


def files(given, folder, printed):
    """Which files there are."""
    trained(**{"save_dir": folder, **given})
    return sorted(path.name for path in folder.iterdir())


def best(given, folder, printed):
    """Which step had the best weights."""
    trained(save_dir=folder, **given)
    return fnopt.read_info(folder / "best.safetensors")["position"]


def noted(given, folder, printed):
    """What a checkpoint holds of the user's."""
    info = fnopt.read_info(trainer(save_dir=folder, **given).save_checkpoint())["info"]
    return {name: value for name, value in info.items() if name == "lr"}


def events(given, folder, printed):
    """What callbacks were told, in order."""
    trained(callbacks=[recorder := Recorder()], **given)
    return recorder.events


def metrics(given, folder, printed):
    """Which metrics a step reports."""
    trained(callbacks=[recorder := Recorder()], max_steps=1, **given)
    return sorted(recorder.metrics[0])


def lines(given, folder, printed):
    """How many lines were printed."""
    printed()
    trained(**given)
    return len(printed().splitlines())


def device(given, folder, printed):
    """Where the state is."""
    return trainer(**given).state.params["0.weight"].device.type


def kernels(given, folder, printed):
    """Does the step know of programs?"""
    return hasattr(trainer(**given).step, "stats")


def determinism(given, folder, printed):
    """Whether torch's deterministic algorithms were asked for, in each call of the loss."""
    seen = []

    def looks(model, batch):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return loss(model, batch)

    trained(loss=looks, max_steps=2, val_loader=None, **given)
    return seen


def poisoned(model, batch):
    """A loss that is not finite from the eighth step on."""
    poisoned.calls += 1
    total, weight, aux = loss(model, batch)
    return total * (float("nan") if 8 <= poisoned.calls <= 20 else 1.0), weight, aux


def given_up(given, folder, printed):
    """After how many steps a run that only skips gives up; and how often it went back."""
    poisoned.calls, made = 0, trainer(loss=poisoned, val_loader=None, callbacks=[seen := Recorder()], **given)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            made.train()
        except fnopt.NonFiniteError:
            return "gave up", len(seen.views)
    return "went on", [warning.category.__name__ for warning in said]


class Enough:
    """Asks to stop at once."""

    def on_validate(self, view):
        return True


ROWS = {
    "model": Row(end, lambda: model(seed=1)),
    "optimizer": Row(end, SGD),
    "train_loader": Row(end, DataLoader(dataset(), batch_size=5, shuffle=True)),
    "val_loader": Row(events, None),
    "loss": Row(end, lambda: lambda model, batch: (2 * loss(model, batch)[0], len(batch[1]))),
    "scheduler": Row(end, fnopt.cosine(0.05, steps=18)),
    "scheduler_interval": Row(end, "epoch", "update", {"scheduler": fnopt.cosine(0.05, steps=3)}),
    "device": Row(device, "meta", "cpu"),
    "max_epochs": Row(end, 2, 3),
    "max_steps": Row(end, 5),
    "grad_accum_steps": Row(end, 2),
    "max_grad_norm": Row(end, 1e-3, beside={"optimizer": SGD}),
    "use_amp": Row(end, True),
    "precision": Row(end, "fp16"),
    "log_interval": Row(lines, 2, 9, {"progress": True}),
    "eval_interval": Row(events, 5),
    "save_dir": Row(files, None),
    "save_interval": Row(files, 4),
    "keep": Row(files, 1, 4),
    "monitor": Row(best, "accuracy", "loss", {"mode": "max"}),
    "mode": Row(best, "max", "min"),
    "info": Row(noted, {"lr": 0.05}),
    "patience": Row(given_up, 3),
    "on_nonfinite": Row(given_up, "rollback", "raise", {"patience": 5}),
    "seed": Row(end, 1),
    "callbacks": Row(end, [Enough()]),
    "compile": Row(kernels, True),
    "deterministic": Row(determinism, True),
    "update_ratio": Row(metrics, True),
    "progress": Row(lines, True, False),
}


def test_every_argument_has_a_row():
    """A new argument fails here until something is known to come out otherwise."""
    assert ROWS.keys() == {name for name in fnopt.Trainer.__init__.__annotations__ if name != "return"}


@pytest.mark.parametrize("name", ROWS)
def test_an_argument_changes_the_outcome(name, tmp_path, capsys):
    """With another value something else comes out; with the same value the same."""
    row, found = ROWS[name], []
    for run, value in enumerate((row.one, row.one, row.other)):
        folder = tmp_path / str(run)
        folder.mkdir()
        made = value() if name in ("model", "loss") and callable(value) else value
        given = dict(row.beside) if value is DEFAULT else {**row.beside, name: made}
        found.append(row.outcome(given, folder, lambda: capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0] != found[2]
