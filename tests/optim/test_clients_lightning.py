"""Lightning's Trainer leaves the same bits with fnopt.optim as with torch.optim."""

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
    gap,
    maker,
    noted_steps,
    optim,
    outcome,
    torchs_adamw,
)
from torch.nn.functional import cross_entropy, softplus
from torch.optim.lr_scheduler import OneCycleLR, StepLR

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    # Lightning 2.6 makes the leaf of a pytree in the way that torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning:lightning.pytorch.utilities"),
    # A resumed run keeps its checkpoints elsewhere; where it keeps them with the old ones, Lightning warns of that.
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning:lightning.pytorch.callbacks"),
]
EPOCHS, BATCHES, UPDATES = 3, 6, 9  # automatic runs accumulate two batches per update

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def one_cycle(optimizer):
    """A schedule that writes lr and momentum or betas at every update."""
    return {"scheduler": OneCycleLR(optimizer, 0.05, total_steps=UPDATES), "interval": "step"}


def halved(optimizer):
    """A schedule that halves lr after every epoch."""
    return {"scheduler": StepLR(optimizer, 1, 0.5), "interval": "epoch"}


def automatic(make_optimizer, schedule):
    """A module that Lightning steps itself."""
    from lightning import LightningModule

    class Automatic(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = classifier()

        def training_step(self, batch, _):
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = make_optimizer(self.net.parameters())
            return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer)}

    return Automatic()


def manual(make_generator, make_critic):
    """Two networks against each other, stepped by hand: each optimizer toggles the other network off."""
    from lightning import LightningModule

    class Manual(LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = classifier(0), classifier(1)

        def training_step(self, batch, _):
            for optimizer, schedule, sign in zip(self.optimizers(), self.lr_schedulers(), (1, -1), strict=True):
                self.toggle_optimizer(optimizer)
                made = torch.nn.functional.pad(self.generator(batch[0]), (0, 1))
                loss = softplus(sign * self.critic(made)).mean() + softplus(-sign * self.critic(batch[0])).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, gradient_clip_val=MAX_NORM, gradient_clip_algorithm="norm")
                optimizer.step()
                self.untoggle_optimizer(optimizer)
                schedule.step()

        def configure_optimizers(self):
            both = [make_generator(self.generator.parameters()), make_critic(self.critic.parameters())]
            return both, [StepLR(optimizer, 4, 0.5) for optimizer in both]

    return Manual()


def seed_epoch(trainer, _):
    """The random numbers of an epoch, as Lightning's checkpoints hold none."""
    torch.manual_seed(trainer.current_epoch)


def fit(module, keep=None, resume=None, callbacks=(), **options):
    """A run that keeps a checkpoint of every epoch in the folder `keep`, or goes on from one."""
    from lightning import Trainer
    from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint

    callbacks = [*callbacks, LambdaCallback(on_train_epoch_start=seed_epoch)]
    if keep:
        callbacks.append(ModelCheckpoint(keep, filename="{epoch}", save_top_k=-1))
    trainer = Trainer(max_epochs=EPOCHS, callbacks=callbacks, enable_checkpointing=bool(keep), **QUIET, **options)
    with noted_steps() as steps:
        trainer.fit(module, batches(BATCHES), ckpt_path=resume)
    assert len(steps) == trainer.global_step - (trainer.global_step // EPOCHS if resume else 0)
    return outcome(module, *trainer.optimizers)


def fit_automatic(make_optimizer, keep=None, resume=None, schedule=one_cycle, max_norm=MAX_NORM, **options):
    """A run of the automatic module, two batches per update, its gradients clipped."""
    module = automatic(make_optimizer, schedule)
    return fit(module, keep, resume, gradient_clip_val=max_norm, accumulate_grad_batches=2, **options)


def checkpoint(folder, epoch=0):
    """Where the run in this folder kept what it was after that epoch."""
    return str(folder / f"epoch={epoch}.ckpt")


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_takes_it_for_torchs(name, tmp_path):
    """Automatic optimization, with accumulation, clipping and a schedule, also resumed, is torch's."""
    theirs = fit_automatic(maker(torch.optim, name), tmp_path / "theirs")
    assert_drop_in(fit_automatic(maker(optim, name), tmp_path / "ours"), theirs)
    for saved in ("ours", "theirs"):
        again = tmp_path / saved / "again"
        assert_drop_in(fit_automatic(maker(optim, name), again, checkpoint(tmp_path / saved)), theirs)


def test_manual_optimization_is_torchs(tmp_path):
    """Two optimizers, toggled, clipped and stepped by hand, each with a schedule, also resumed, are torch's."""
    theirs = fit(manual(*[maker(torch.optim, name) for name in NAMES]), tmp_path / "theirs")
    ours = [maker(optim, name) for name in NAMES]
    assert_drop_in(fit(manual(*ours), tmp_path / "ours"), theirs)
    assert_drop_in(fit(manual(*ours), tmp_path / "again", checkpoint(tmp_path / "ours")), theirs)


@pytest.mark.parametrize("average", ["StochasticWeightAveraging", "EMAWeightAveraging"])
@pytest.mark.parametrize("name", NAMES)
def test_averaged_weights_are_torchs(name, average):
    """With the averages of Lightning, one of which brings a schedule of its own, a run is torch's."""
    from lightning.pytorch import callbacks

    def averaged(module):
        options = {"swa_lrs": 0.02, "swa_epoch_start": 1} if average == "StochasticWeightAveraging" else {}
        averaging = getattr(callbacks, average)(**options)
        return fit_automatic(maker(module, name), schedule=halved, callbacks=[averaging])

    assert_drop_in(averaged(optim), averaged(torch.optim))


@pytest.mark.parametrize("name", NAMES)
def test_the_search_for_a_learning_rate_is_torchs(name, tmp_path):
    """The tuner, which steps under a schedule of its own and then puts all back, sees the losses it sees with torch."""
    from lightning import Trainer
    from lightning.pytorch.tuner import Tuner

    def found(module):
        trained = automatic(maker(module, name), halved)
        trained.lr = 0.01
        torch.manual_seed(0)
        tuner = Tuner(Trainer(max_epochs=2, enable_checkpointing=False, default_root_dir=tmp_path, **QUIET))
        return tuner.lr_find(trained, batches(BATCHES), num_training=8).results

    ours, theirs = found(optim), found(torch.optim)
    assert ours == theirs
    assert len(set(ours["loss"])) == 8


def test_a_pure_chain_clips_as_the_trainer_does(tmp_path):
    """ClipNorm in the chain ends where the trainer's clipping and torch's AdamW do, and resumes to the bit."""

    def run(make_optimizer, max_norm=None, **places):
        return fit_automatic(make_optimizer, schedule=halved, max_norm=max_norm, **places)

    theirs, unclipped = (run(torchs_adamw, max_norm) for max_norm in (MAX_NORM, None))
    ours = run(clipped_adamw, keep=tmp_path / "ours")
    assert gap(ours, theirs) < 1e-6 < 1e-4 < gap(unclipped, theirs)
    assert_same_bits(run(clipped_adamw, keep=tmp_path / "again", resume=checkpoint(tmp_path / "ours")), ours)


def test_the_comparison_can_fail():
    """Negative control: other schedules leave other weights."""
    theirs = fit_automatic(maker(torch.optim, "AdamW"))
    with pytest.raises(AssertionError, match="params"):
        assert_drop_in(fit_automatic(maker(optim, "AdamW"), schedule=halved), theirs)
