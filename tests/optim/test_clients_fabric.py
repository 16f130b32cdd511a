"""Lightning's Fabric leaves the same bits with fnopt.optim as with torch.optim."""

import pytest
import torch
from client_cases import (
    ARGUMENTS,
    MAX_NORM,
    NAMES,
    assert_drop_in,
    assert_same_bits,
    classifier,
    examples,
    maker,
    outcome,
)
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import StepLR

from fnopt import optim

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
UPDATES, SAVED = 6, 3


def set_up(make_optimizer, precision):
    """(fabric, model, optimizer, schedule), wrapped by Fabric; the schedule's optimizer is the one inside."""
    from lightning import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    model = classifier()
    optimizer = make_optimizer(model.parameters())
    schedule = StepLR(optimizer, 2, 0.5)
    return fabric, *fabric.setup(model, optimizer), schedule


def train(make_optimizer, step, keep=None, resume=None, precision="32-true"):
    """A run that saves itself in the file `keep` after half of its updates, or goes on from the file `resume`."""
    fabric, model, optimizer, schedule = set_up(make_optimizer, precision)
    whole = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if resume:
        fabric.load(resume, whole)
    for number in range(SAVED if resume else 0, UPDATES):
        torch.manual_seed(number)
        step(fabric, model, optimizer)
        schedule.step()
        if keep and number + 1 == SAVED:
            fabric.save(keep, whole)
    return outcome(model, optimizer.optimizer)


def plain(fabric, model, optimizer):
    """Two micro-batches, clipped, one update."""
    optimizer.zero_grad()
    for x, y in zip(*[part.split(12) for part in examples()], strict=True):
        fabric.backward(cross_entropy(model(x), y) / 2)
    fabric.clip_gradients(model, optimizer, max_norm=MAX_NORM)
    optimizer.step()


def with_closure(fabric, model, optimizer):
    """The update calls for loss and gradients itself, and returns the loss."""
    x, y = examples()
    losses = []

    def closure():
        optimizer.zero_grad()
        losses.append(cross_entropy(model(x), y))
        fabric.backward(losses[-1])
        return losses[-1]

    assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1


# In bf16-true, fnopt rounds once per step and torch at each operation: other bits, by design. In 64-true, Fabric widens
# the weights of an optimizer that exists already, whose state is the old one if it was made with it.
CASES = [(name, precision) for name in ARGUMENTS for precision in ("32-true", "bf16-mixed")]


@pytest.mark.parametrize(("name", "precision"), [*CASES, *[(name, "64-true") for name in NAMES]])
def test_fabric_takes_it_for_torchs(name, precision):
    """With accumulation, clipping and a schedule, also in other precisions, a run is torch's."""
    theirs = train(maker(torch.optim, name), plain, precision=precision)
    assert_drop_in(train(maker(optim, name), plain, precision=precision), theirs)


@pytest.mark.parametrize("step", [plain, with_closure])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_from_its_file(name, step, tmp_path):
    """Saved half-way and loaded elsewhere, ours and torch's alike, a run ends as torch's does uninterrupted."""
    theirs = train(maker(torch.optim, name), step, tmp_path / "theirs")
    assert_drop_in(train(maker(optim, name), step, tmp_path / "ours"), theirs)
    for saved in ("ours", "theirs"):
        assert_drop_in(train(maker(optim, name), step, resume=tmp_path / saved), theirs)
    assert_same_bits(train(maker(torch.optim, name), step, resume=tmp_path / "ours"), theirs)


def test_the_comparison_can_fail():
    """Negative control: nesterov instead of plain momentum leaves other weights."""
    theirs = train(maker(torch.optim, "SGD"), plain)
    with pytest.raises(AssertionError, match="params"):
        assert_drop_in(train(maker(optim, "SGD", nesterov=True), plain), theirs)
