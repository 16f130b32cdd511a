"""transformers' Trainer leaves the same bits with fnopt.optim as with torch.optim."""

import pytest
import torch
from client_cases import (
    MAX_NORM,
    NAMES,
    arguments,
    assert_drop_in,
    assert_same_bits,
    clipped_adamw,
    gap,
    maker,
    outcome,
    torchs_adamw,
)
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers_cases import STEPS, checkpoint, language_model, run_to_the_end, settings, trainer

from fnopt import optim

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_accelerator")]
HOW = ["optimizers", "optimizer_cls_and_kwargs"]


def train(module, name, how, folder, resume=None, **changes):
    """One run with the optimizer `name` of `module`, given to the trainer in one of two ways."""
    model = language_model()
    if how == "optimizers":
        optimizer = maker(module, name, **changes)(model.parameters())
        given = {"optimizers": (optimizer, CosineAnnealingLR(optimizer, STEPS))}
    else:
        given = {how: (getattr(module, name), arguments(name, **changes))}
    running = trainer(model, settings(folder), **given)
    run_to_the_end(running, resume)
    return outcome(model, running.optimizer.optimizer)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_takes_it_for_torchs(name, how, tmp_path):
    """With accumulation, clipping, a schedule and decay groups, a run is torch's, also if resumed from a checkpoint."""
    theirs = train(torch.optim, name, how, tmp_path / "theirs")
    assert_drop_in(train(optim, name, how, tmp_path / "ours"), theirs)
    resumed = train(optim, name, how, tmp_path / "resumed", checkpoint(tmp_path / "ours"))
    assert_drop_in(resumed, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_go_both_ways(name, tmp_path):
    """A run saved with torch's optimizer is resumed with ours, and the other way round, to the same end."""
    theirs = train(torch.optim, name, HOW[1], tmp_path / "theirs")
    train(optim, name, HOW[1], tmp_path / "ours")
    mine = train(optim, name, HOW[1], tmp_path / "1", checkpoint(tmp_path / "theirs"))
    assert_drop_in(mine, theirs)
    back = train(torch.optim, name, HOW[1], tmp_path / "2", checkpoint(tmp_path / "ours"))
    assert_same_bits(back, theirs)


def test_a_pure_chain_clips_as_the_trainer_does(tmp_path):
    """ClipNorm in the chain and no clipping in the trainer end where torch's AdamW and the trainer's clipping do."""

    def chosen(make_optimizer, max_norm, resume=None):
        model = language_model()
        optimizer = make_optimizer(model.parameters())
        given = (optimizer, CosineAnnealingLR(optimizer, STEPS))
        run_to_the_end(trainer(model, settings(tmp_path, max_grad_norm=max_norm), optimizers=given), resume)
        return outcome(model, optimizer)

    theirs = chosen(torchs_adamw, MAX_NORM)
    unclipped = chosen(torchs_adamw, 0.0)
    ours = chosen(clipped_adamw, 0.0)
    assert gap(ours, theirs) < 1e-6 < 1e-4 < gap(unclipped, theirs)
    assert_same_bits(chosen(clipped_adamw, 0.0, checkpoint(tmp_path)), ours)


@pytest.mark.parametrize("change", [{"lr": 2e-2}, {"weight_decay": 0.2}, {"betas": (0.9, 0.99)}])
def test_the_comparison_can_fail(change, tmp_path):
    """Negative control: one other hyperparameter leaves other weights."""
    theirs = train(torch.optim, "AdamW", "optimizers", tmp_path)
    with pytest.raises(AssertionError, match="params"):
        assert_drop_in(train(optim, "AdamW", "optimizers", tmp_path, **change), theirs)
