"""Every wrong combination of arguments says what was given, what was expected, and what to do."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from trainer_cases import Recorder, dataset, loaders, model, trained, trainer

import fnopt

SGD = fnopt.SGD(0.1)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(dataset())


class Own:
    def iter_from(self, position):
        return iter([])


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
    "save interval": (lambda: {"save_interval": 0}, "save_interval must be an int >= 1, got 0"),
    "patience": (lambda: {"patience": 0}, "patience must be an int >= 1, got 0"),
    "nonfinite": (lambda: {"on_nonfinite": "skip"}, 'on_nonfinite must be "raise" or "rollback", got \'skip\''),
    "info": (lambda: {"info": {"marks": 1}}, r"info has \['marks'\], which the Trainer writes itself"),
    "ratio": (lambda: {"update_ratio": 1}, "update_ratio must be True or False"),
    "info kind": (lambda: {"info": [1]}, "info is a list, expected a dict"),
    "callbacks": (lambda: {"callbacks": Recorder()}, r"expected a list of them; write \[callback\]"),
    "one validation": (lambda: {"val_loader": iter([dataset()[:4]])}, r"read once only.*write list\(val_loader\)"),
    "device": (lambda: {"device": "nowhere"}, "device='nowhere' cannot be had"),
    "nowhere to save": (lambda: {"save_interval": 3}, "save_interval=3 without a save_dir"),
    "nothing to monitor": (lambda: {"monitor": "f1", "val_loader": None}, "monitor='f1' without a val_loader"),
    "nothing to stop at": (
        lambda: {"callbacks": [fnopt.callbacks.EarlyStopping()], "val_loader": None},
        "EarlyStopping is told of validations only, and there is no val_loader",
    ),
    "own items": (lambda: {"train_loader": Own(), "grad_accum_steps": 2}, "makes its items itself"),
    "no batches": (lambda: {"train_loader": []}, "train_loader makes 0 updates per epoch, expected at least one"),
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
