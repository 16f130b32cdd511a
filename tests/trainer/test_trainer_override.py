"""Hyperparameters changed on resume: checked against the rules, kept in the files, and nothing else is touched."""

import pytest
import torch
from trainer_cases import bits, model, trained, trainer

import fnopt

RULES = {"decay": fnopt.AdamW(0.05, weight_decay=0.5), "rest": fnopt.AdamW(0.05, weight_decay=0.0)}
LABELS = {name: "decay" if name.endswith("weight") else "rest" for name, _ in model().named_parameters()}


def begun(folder, **given):
    """A run of two epochs, saved there."""
    trained(save_dir=folder, max_epochs=2, **given)


def gone_on(folder, override=None, **given):
    """The run that goes on from there, to the third epoch."""
    made = trainer(save_dir=folder, **given)
    made.load_checkpoint(override=override)
    made.train()
    return made


def test_an_override_is_another_optimizer_from_there_on(tmp_path):
    """To the bit, what a Trainer with these hyperparameters makes of the same file; without it, another run."""
    ends = []
    for name, override, given in (
        ("a", {"lr": 0.01, "betas": [0.8, 0.9]}, {}),
        ("b", None, {"optimizer": fnopt.AdamW(0.01, betas=(0.8, 0.9))}),
        ("c", None, {}),
    ):
        begun(tmp_path / name)
        ends.append(bits(gone_on(tmp_path / name, override, **given).state))
    assert ends[0] == ends[1] != ends[2]


def test_one_rule_is_named_by_its_label(tmp_path):
    """The decay of one group changes, and no other's."""
    optimizer = fnopt.partition(RULES, LABELS)
    begun(tmp_path, optimizer=optimizer)
    made = gone_on(tmp_path, {"weight_decay/decay": 0.1}, optimizer=optimizer)
    rules = made.step.optimizer.optimizers
    assert (rules["decay"].weight_decay, rules["rest"].weight_decay) == (0.1, 0.0)


def test_files_hold_it_and_a_run_keeps_it(tmp_path, capsys):
    """What is saved later says so, the plan too; who goes on from there has it, until {} ends it."""
    begun(tmp_path)
    made = gone_on(tmp_path, {"lr": 0.01})
    assert fnopt.read_info(made.save_checkpoint())["info"]["override"] == {"lr": 0.01}
    again = trainer(save_dir=tmp_path, max_epochs=4)
    again.load_checkpoint()
    assert again.step.optimizer.lr == 0.01
    assert str(again.plan()).endswith("override: lr=0.01")
    again.load_checkpoint(override={})
    assert again.step.optimizer.lr == 0.05
    assert "override" not in str(again.plan())
    again.step = fnopt.evolve(again.step, optimizer=fnopt.AdamW(0.02))  # the user's own: loading leaves it alone
    again.load_checkpoint(override={})
    assert again.step.optimizer.lr == 0.02


@pytest.mark.slow
def test_a_compiled_step_takes_it_too(tmp_path):
    """Numbers are inputs of its kernels."""
    begun(tmp_path, compile=True)
    made = gone_on(tmp_path, {"lr": 0.01}, compile=True)
    assert made.step.optimizer.lr == 0.01
    assert made.step.stats.mode == "compiled"


WRONG = {
    "name": (
        {"learning_rate": 0.1},
        r"override has 'learning_rate', expected one of amsgrad, betas, eps, lr",
    ),
    "label": ({"lr/head": 0.1}, r"override has 'lr/head', expected one of"),
    "value": ({"lr": -1.0}, r"AdamW: lr must be"),
    "schedule": ({"lr": fnopt.cosine(0.1, 9)}, r"expected a number, which checkpoints can hold"),
    "text": ({"lr": "small"}, r"lr='small', expected a number"),
    "memory": ({"amsgrad": True}, r"needs other memory than the file has"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_override_has_its_sentence(name, tmp_path):
    """And changes nothing: neither state nor step."""
    override, sentence = WRONG[name]
    begun(tmp_path)
    made = trainer(save_dir=tmp_path)
    step = made.step
    with pytest.raises(fnopt.FnoptError, match=sentence):
        made.load_checkpoint(override=override)
    assert made.state.position == 0
    assert made.step is step
    assert torch.equal(made.model[0].weight, model()[0].weight)


def test_what_differs_between_rules_is_named_by_label(tmp_path):
    """One value for rules that differ would make them equal: refused, with their names."""
    optimizer = fnopt.partition(RULES, LABELS)
    begun(tmp_path, optimizer=optimizer)
    with pytest.raises(fnopt.FnoptError, match=r"weight_decay/decay=0.5, weight_decay/rest=0.0.*'weight_decay/decay'"):
        gone_on(tmp_path, {"weight_decay": 0.1}, optimizer=optimizer)


def test_the_rate_of_a_plateau_is_its_own(tmp_path):
    """It would be overwritten at once: the error says where it is."""
    given = {"scheduler": fnopt.plateau(0.05), "optimizer": fnopt.SGD(0.05)}
    begun(tmp_path, **given)
    with pytest.raises(fnopt.FnoptError, match=r'trainer.state.extra\["plateau/lr"\]'):
        gone_on(tmp_path, {"lr": 0.1}, **given)
