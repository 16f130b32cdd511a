"""Every argument changes what happens, and every wrong combination says what to do."""

import json
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from trainer_cases import Recorder, bits, dataset, loaders, loss, model, trained, trainer

import fnopt

SGD = fnopt.SGD(0.1)
VARIANTS = {
    "model": {"model": model(seed=1)},
    "optimizer": {"optimizer": SGD},
    "train_loader": {"train_loader": DataLoader(dataset(), batch_size=5, shuffle=True)},
    "loss": {"loss": lambda model, batch: (2 * loss(model, batch)[0], len(batch[1]))},
    "scheduler": {"scheduler": fnopt.cosine(0.05, steps=18)},
    "scheduler_interval": {"scheduler": fnopt.cosine(0.05, steps=3), "scheduler_interval": "epoch"},
    "max_epochs": {"max_epochs": 2},
    "max_steps": {"max_steps": 5},
    "grad_accum_steps": {"grad_accum_steps": 2},
    "max_grad_norm": {"max_grad_norm": 1e-3, "optimizer": SGD},
    "use_amp": {"use_amp": True},
    "precision": {"precision": "fp16"},
    "seed": {"seed": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_argument_changes_the_outcome(name):
    """The run with another value ends elsewhere, and with the same value at the same place."""
    given = {**VARIANTS[name]}
    ends = [trained(**{"model": model(), **given}) if name != "model" else trained(model=model(seed=1)) for _ in "ab"]
    assert bits(ends[0]) == bits(ends[1])
    assert bits(ends[0]) != bits(trained())


def test_every_argument_is_tested_here():
    """The arguments are those with a variant above, or a test of their own below."""
    own = {"val_loader", "device", "log_interval", "eval_interval", "save_dir", "keep", "monitor", "mode", "callbacks"}
    own |= {"compile", "deterministic", "progress", "save_interval", "info", "patience", "on_nonfinite", "update_ratio"}
    names = {name for name in fnopt.Trainer.__init__.__annotations__ if name != "return"}
    assert names == VARIANTS.keys() | own


def test_device_is_where_the_state_is():
    """The model and the state move to the device."""
    assert trainer(device="meta").state.params["0.weight"].device.type == "meta"


def test_val_loader_and_eval_interval_say_what_is_validated_and_when():
    """Without a val_loader nothing is; with one, once per epoch, or every so many steps, and at the end."""

    def events(**given):
        trained(callbacks=[recorder := Recorder()], **given)
        return [view[0] for view, event in _pairs(recorder) if event == "validate"]

    def _pairs(recorder):
        view, pairs = None, []
        views = iter(recorder.views)
        for event in recorder.events:
            view = next(views) if event == "update" else view
            pairs.append((view, event))
        return pairs

    assert events(val_loader=None) == []
    assert events() == [6, 12, 18]
    assert events(eval_interval=5) == [5, 10, 15, 18]


def test_save_dir_and_keep_say_what_stays(tmp_path):
    """The last `keep` checkpoints, the best one, its own file, and the log."""
    trained(save_dir=tmp_path / "a", keep=1, max_epochs=4)
    trained(save_dir=tmp_path / "b", keep=4, max_epochs=4)
    few, all_ = ({path.name for path in (tmp_path / name).glob("step-*")} for name in "ab")
    assert few < all_
    assert len(all_) == 4
    assert {"best.safetensors", "log.jsonl"} <= {path.name for path in (tmp_path / "a").iterdir()}


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "min"), ("loss", "max"), ("accuracy", "max")])
def test_monitor_and_mode_say_which_is_best(tmp_path, monitor, mode):
    """best.safetensors is the first of the best, and says which weights it holds."""
    found = []

    class Note:
        def on_validate(self, view):
            found.append((view.validation[monitor], view.position))

    trained(save_dir=tmp_path, monitor=monitor, mode=mode, callbacks=[Note()], max_epochs=4)
    info = fnopt.read_info(tmp_path / "best.safetensors")
    best = (min if mode == "min" else max)(found, key=lambda item: item[0])
    assert (info["info"]["marks"]["best"], info["position"]) == best
    assert info["info"]["weights"].startswith("params are the weights that were validated")


def test_log_interval_and_progress_say_what_is_printed(capsys):
    """Lines come every so many steps; none at all without progress."""

    def lines(**given):
        trained(**given)
        return [line for line in capsys.readouterr().out.splitlines() if re.match(r"update +\d+/18", line)]

    assert lines(progress=False, log_interval=2) == []
    assert len(lines(progress=True, log_interval=2)) > len(lines(progress=True, log_interval=9)) > 0


def test_callbacks_are_called_at_their_events(tmp_path):
    """Updates, validations and saves, in this order; the view says where the run is, the model holds its weights."""
    own, same = model(), []

    class Looks(Recorder):
        def on_update(self, view):
            super().on_update(view)
            same.append(torch.equal(own[0].weight, view.state.params["0.weight"]))

    trained(model=own, callbacks=[seen := Looks()], save_dir=tmp_path)
    assert seen.events == (["update"] * 6 + ["validate", "save"]) * 3
    assert seen.views[6] == (7, 1, 7, 18)
    assert all(same)


def test_a_callback_can_ask_to_stop():
    """True from on_validate ends the run after the validation; train() again goes on."""

    class Enough:
        asked = 0

        def on_validate(self, view):
            self.asked += 1
            return self.asked == 1

    made = trainer(callbacks=[Enough()])
    made.train()
    assert made.state.position == 6
    made.train()
    assert bits(made.state) == bits(trained())


def test_compile_compiles():
    """trainer.step is a compiled one."""
    assert hasattr(trainer(compile=True).step, "stats")
    assert not hasattr(trainer().step, "stats")


def test_deterministic_is_on_during_the_run_only():
    """Also where the user had it on before."""
    seen = []

    def looks(model, batch):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return loss(model, batch)

    trained(loss=looks, deterministic=True, max_steps=2, val_loader=None)
    assert seen == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    trained(loss=looks, max_steps=2, val_loader=None)
    assert seen[2:] == [False, False]


def test_train_again_says_that_nothing_is_left(capsys):
    """At the end, train() changes nothing, says so in one line, and returns the last validation."""
    made = trainer(progress=True)
    first, state = made.train(), bits(made.state)
    capsys.readouterr()
    assert made.train() == first
    assert capsys.readouterr().out == "nothing to do: already at update 18, the end of max_epochs=3\n"
    assert bits(made.state) == state


def test_the_log_has_a_row_for_each_step(tmp_path):
    """log.jsonl holds every step and validation."""
    trained(save_dir=tmp_path)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (kinds.count("update"), kinds.count("validation")) == (18, 3)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(dataset())


def _adamw(owner=None):
    owner = model() if owner is None else owner
    return torch.optim.AdamW(owner.parameters())


def _attached():
    return torch.optim.lr_scheduler.StepLR(_adamw(), 2)


def _one_cycle():
    own = model()
    optimizer = _adamw(own)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    return {"model": own, "optimizer": optimizer, "scheduler": scheduler}


CLIPPED = fnopt.chain(fnopt.ClipNorm(1.0), SGD)
RATES = {"a": fnopt.SGD(0.1), "b": fnopt.SGD(0.2)}
LABELS = {name: "a" if name < "1" else "b" for name, _ in model().named_parameters()}
WRONG = {
    "no end": (lambda: {"max_epochs": None}, "neither max_epochs nor max_steps"),
    "no length": (lambda: {"train_loader": DataLoader(Endless(), 4)}, "train_loader has no length.*max_steps"),
    "amp": (lambda: {"use_amp": True, "precision": "fp16"}, 'use_amp=True means "bf16".*precision="fp16"'),
    "no amp": (lambda: {"use_amp": False, "precision": "bf16"}, "give one of them"),
    "precision": (lambda: {"precision": "half"}, 'must be "fp32", "bf16" or "fp16", got \'half\''),
    "use_amp": (lambda: {"use_amp": "yes"}, "use_amp must be True or False"),
    "two clips": (
        lambda: {"max_grad_norm": 1.0, "optimizer": fnopt.chain(fnopt.ClipNorm(1.0), SGD)},
        "ClipNorm already",
    ),
    "clip": (lambda: {"max_grad_norm": 0.0}, "max_norm must be finite and > 0"),
    "accumulation": (
        lambda: {"grad_accum_steps": 4, "train_loader": fnopt.Batches(dataset(), 2, micro_batches=3)},
        "grad_accum_steps=4, and train_loader has micro_batches=3",
    ),
    "steps": (lambda: {"grad_accum_steps": 0}, "grad_accum_steps must be an int >= 1, got 0"),
    "epochs": (lambda: {"max_epochs": 1.5}, "max_epochs must be an int >= 1, got 1.5"),
    "keep": (lambda: {"keep": 0}, "keep must be an int >= 1"),
    "mode": (lambda: {"mode": "best"}, 'mode must be "min" or "max"'),
    "flag": (lambda: {"compile": 1}, "compile must be True or False"),
    "model": (lambda: {"model": {"w": torch.zeros(1)}}, "model is a dict, expected a torch.nn.Module"),
    "loader": (lambda: {"train_loader": 3}, "train_loader is a int, expected a DataLoader"),
    "optimizer class": (lambda: {"optimizer": fnopt.AdamW}, r"got the class AdamW.*write AdamW\(…\)"),
    "no optimizer": (lambda: {"optimizer": "adam"}, "got 'adam', expected a record"),
    "other model": (lambda: {"optimizer": _adamw()}, "not of this Sequential.*model.parameters"),
    "other torch": (
        lambda: {"model": (m := model()), "optimizer": torch.optim.NAdam(m.parameters())},
        "NAdam, expected",
    ),
    "interval alone": (lambda: {"scheduler_interval": "epoch"}, "without a scheduler"),
    "interval": (lambda: {"scheduler": fnopt.cosine(0.1, 9), "scheduler_interval": "step"}, '"update" or "epoch"'),
    "epoch clock": (
        lambda: {
            "scheduler": fnopt.cosine(0.1, 9),
            "scheduler_interval": "epoch",
            "train_loader": DataLoader(Endless(), 4),
            "max_epochs": None,
            "max_steps": 3,
        },
        'has no length, expected one; use "update"',
    ),
    "scheduler": (lambda: {"scheduler": 0.1}, "scheduler is 0.1, expected a Schedule"),
    "two schedules": (
        lambda: {"optimizer": fnopt.SGD(fnopt.cosine(0.1, 9)), "scheduler": fnopt.cosine(0.1, 9)},
        "expected one of them",
    ),
    "two rates": (
        lambda: {"optimizer": fnopt.partition(RATES, LABELS), "scheduler": fnopt.cosine(0.1, 9)},
        "one Schedule, and rules with the learning rates",
    ),
    "attached": (lambda: {"scheduler": _attached()}, "StepLR is attached to another AdamW.*the same object"),
    "short": (_one_cycle, "OneCycleLR ends before the run, after 5 of 18 updates"),
    "plateau clock": (
        lambda: {"scheduler": fnopt.plateau(0.1), "scheduler_interval": "epoch"},
        "a plateau counts validations",
    ),
    "plateau": (lambda: {"scheduler": fnopt.plateau(0.1), "val_loader": None}, "there is no val_loader"),
    "callback class": (lambda: {"callbacks": [Recorder]}, r"write Recorder\(…\)"),
    "callback": (lambda: {"callbacks": [print]}, "expected objects with on_update"),
    "empty": (
        lambda: {"train_loader": DataLoader(TensorDataset(torch.zeros(3, 4)), 4, drop_last=True)},
        "makes 0 updates per epoch",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_combination_has_its_sentence(name):
    """It is refused at construction, with what was given and what to do."""
    make, sentence = WRONG[name]
    given = {"max_epochs": 3, **make()}
    with pytest.raises((fnopt.FnoptError, ValueError, TypeError), match=sentence):
        trainer(**given)


LATE = {
    "bare mean": (
        {"loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])},
        r"expected \(loss_sum, weight\).*for a mean over n samples return \(mean \* n, n\)",
    ),
    "monitor": ({"monitor": "f1"}, r"monitor='f1' is not among.*\['accuracy', 'loss', 'weight'\]"),
    "labels": (
        {"loss": None, "train_loader": DataLoader(TensorDataset(torch.zeros(4, 4), torch.zeros(4)), 4)},
        r"torch.float32, expected \(x, integer labels\); give loss=",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_what_a_step_finds_has_its_sentence(name):
    """What only a batch shows is refused at the first one."""
    given, sentence = LATE[name]
    with pytest.raises(fnopt.FnoptError, match=sentence):
        trained(grad_accum_steps=2, **given)


def test_without_a_place_to_save_or_to_validate_it_says_so():
    """save_checkpoint, load_checkpoint and evaluate name the argument that they lack."""
    made = trainer(val_loader=None)
    for call in (made.save_checkpoint, made.load_checkpoint):
        with pytest.raises(fnopt.FnoptError, match="save_dir="):
            call()
    with pytest.raises(fnopt.FnoptError, match=r"no val_loader"):
        made.evaluate()
    assert made.evaluate(loaders()["val_loader"])["weight"] == 10
