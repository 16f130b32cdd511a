"""Accelerate leaves the same bits with fnopt.optim as with torch.optim."""

import pytest
import torch
from client_cases import (
    MAX_NORM,
    NAMES,
    assert_drop_in,
    assert_same_bits,
    batches,
    classifier,
    clipped_adamw,
    forget_accelerator,
    gap,
    maker,
    optim,
    outcome,
    torchs_adamw,
)
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_accelerator")]
EPOCHS, BATCHES = 3, 6
SAVED = (1, 2)  # in this epoch after this batch: the first update of the second epoch


def prepared(make_optimizer, precision="no"):
    """(accelerator, model, optimizer, loader, scheduler), all prepared by Accelerate."""
    from accelerate import Accelerator

    forget_accelerator()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=precision)
    model = classifier()
    optimizer = make_optimizer(model.parameters())
    scheduler = OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * BATCHES)
    return accelerator, *accelerator.prepare(model, optimizer, batches(BATCHES), scheduler)


def epoch(accelerator, model, optimizer, loader, scheduler, max_norm):
    """One pass over the loader, an update every second batch; yields after each batch."""
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(x), y))
            if accelerator.sync_gradients and max_norm:
                accelerator.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        yield


def train(make_optimizer, folder=None, resume=False, max_norm=MAX_NORM, precision="no"):
    """A run that saves itself in `folder` in the middle of the second epoch, or goes on from what lies there."""
    accelerator, model, optimizer, loader, scheduler = prepared(make_optimizer, precision)
    first, done = SAVED if resume else (0, 0)
    if resume:
        accelerator.load_state(str(folder))
        assert optimizer.state, "the optimizer's state was not loaded"
    for number in range(first, EPOCHS):
        rest = accelerator.skip_first_batches(loader, done)
        for place, _ in enumerate(epoch(accelerator, model, optimizer, rest, scheduler, max_norm), done + 1):
            if folder and (number, place) == SAVED:
                accelerator.save_state(str(folder))
        done = 0
    return outcome(accelerator.unwrap_model(model), optimizer.optimizer)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_accelerate_takes_it_for_torchs(name, precision):
    """Prepared, with accumulation, clipping and OneCycleLR, also under autocast, a run is torch's."""
    theirs = train(maker(torch.optim, name), precision=precision)
    assert_drop_in(train(maker(optim, name), precision=precision), theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_its_saved_state(name, tmp_path):
    """Saved in the middle of a run and loaded elsewhere, ours and torch's alike, it ends as if never interrupted."""
    theirs = train(maker(torch.optim, name), tmp_path / "theirs")
    assert_drop_in(train(maker(optim, name), tmp_path / "ours"), theirs)
    for saved in ("ours", "theirs"):
        assert_drop_in(train(maker(optim, name), tmp_path / saved, resume=True), theirs)
    assert_same_bits(train(maker(torch.optim, name), tmp_path / "ours", resume=True), theirs)


def test_a_pure_chain_clips_as_accelerate_does(tmp_path):
    """ClipNorm in the chain ends where clip_grad_norm_ and torch's AdamW do, and goes on from its saved state."""
    theirs, unclipped = (train(torchs_adamw, max_norm=max_norm) for max_norm in (MAX_NORM, None))
    ours = train(clipped_adamw, tmp_path, max_norm=None)
    assert gap(ours, theirs) < 1e-6 < 1e-4 < gap(unclipped, theirs)
    assert_same_bits(train(clipped_adamw, tmp_path, resume=True, max_norm=None), ours)


def test_the_comparison_can_fail(tmp_path):
    """Negative control: another eps leaves other weights; another clipping after the resume, too."""
    theirs = train(maker(torch.optim, "AdamW"), tmp_path)
    with pytest.raises(AssertionError, match="params"):
        assert_drop_in(train(maker(optim, "AdamW", eps=1e-6)), theirs)
    with pytest.raises(AssertionError, match="params"):
        assert_drop_in(train(maker(optim, "AdamW"), tmp_path, resume=True, max_norm=2 * MAX_NORM), theirs)
