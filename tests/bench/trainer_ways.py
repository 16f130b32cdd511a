"""Three ways to train a job from the same first weights: fnopt.Trainer, Lightning's Trainer, and a plain torch loop.

Each way shuffles by itself, or all get the same batches in the same order.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from trainer_jobs import MICRO, Job

import fnopt

CLIP = 1.0


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    """As the peers have it."""
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def by_trainer(job: Job, seed: int, same: bool = False, compile: bool = False) -> nn.Module:
    """fnopt.Trainer, given torch's optimizer, scheduler and loader; its own loss for (x, integer labels)."""
    model = job.model(seed)
    optimizer = job.optimizer(model)
    trainer = fnopt.Trainer(
        model=model,
        optimizer=optimizer,
        scheduler=job.scheduler(optimizer),
        train_loader=job.batches(seed) if same else job.loader(seed),
        max_epochs=job.epochs,
        grad_accum_steps=MICRO,
        max_grad_norm=CLIP,
        precision=job.precision,
        seed=seed,
        compile=compile,
        progress=False,
    )
    trainer.train()
    assert int(trainer.state.updates) == job.updates
    return model


def by_loop(job: Job, seed: int, same: bool = False, nudge: float = 0.0, rate: float = 1.0) -> nn.Module:
    """The plain loop. For controls: first weights larger by a part of `nudge`, and lr times `rate`."""
    model = job.model(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + nudge)
    optimizer = attrs.evolve(job, lr=rate * job.lr).optimizer(model)
    scheduler, loader, done = job.scheduler(optimizer), job.loader(1000 + seed), 0
    for epoch in range(job.epochs):
        for batch in same_order(job, seed, epoch) if same else loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
                loss = mean_loss(model, batch)
            (loss / MICRO).backward()
            done += 1
            if done % MICRO == 0:
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    assert done == MICRO * job.updates
    return model


def by_lightning(job: Job, seed: int, same: bool = False) -> nn.Module:
    """Lightning's Trainer."""
    import lightning as L

    quiet()

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.model(seed)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return mean_loss(self.model, batch)

        def configure_optimizers(self) -> Any:
            optimizer = job.optimizer(self.model)
            return [optimizer], [{"scheduler": job.scheduler(optimizer), "interval": "step"}]

    module = Module()
    batches = [batch for epoch in range(job.epochs) for batch in same_order(job, seed, epoch)] if same else None
    trainer = L.Trainer(
        max_epochs=1 if same else job.epochs,
        accumulate_grad_batches=MICRO,
        gradient_clip_val=CLIP,
        precision="bf16-mixed" if job.precision == "bf16" else "32-true",
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None) if batches else job.loader(2000 + seed))
    assert trainer.global_step == job.updates
    return module.model


def same_order(job: Job, seed: int, epoch: int) -> Sequence[Any]:
    """The micro-batches of an epoch, as `Job.batches` has them."""
    data = job.batches(seed)
    return [batch for t in range(len(data)) for batch in data.at(epoch * len(data) + t)]


def quiet() -> None:
    """Lightning says much that is not asked."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
