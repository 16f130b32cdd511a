"""The main job, composed of fnopt's public pieces: a byte-level GPT and all that trains it. Made to be copied from."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import (
    AdamW,
    Batches,
    ClipNorm,
    StepFn,
    Trainer,
    chain,
    decay_labels,
    ema,
    evolve,
    linear,
    partition,
    warmup_cosine,
)
from ..callbacks import Progress
from ..randomness import seeded
from ..trainer.precisions import Precision
from ..transforms.chain import ChainedOptimizer
from .config import Config
from .gpt import GPT
from .text import Windows, split

Batch = tuple[Tensor, Tensor]  # input and target bytes, int64 [batch_size, context] each


@attrs.frozen
class Job:
    """What is trained, on what, and the Trainer that does it."""

    config: Config
    model: GPT
    data: Batches
    held_out: Batches
    trainer: Trainer

    @property
    def step(self) -> StepFn[list[Batch]]:
        """The step that the Trainer has made."""
        return self.trainer.step


def loss(model: GPT, batch: Batch) -> tuple[Tensor, int, dict[str, Tensor]]:
    """The summed cross-entropy in nats, the number of bytes that it is a sum over, and the same sum in bits."""
    x, y = batch
    nats = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
    return nats, y.numel(), {"bits_per_byte": nats / math.log(2)}


def make_model(config: Config) -> GPT:
    """The model with its first weights, which depend on the seed alone."""
    with seeded(config.seed, torch.device("cpu")):
        return GPT(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            context=config.context,
            dropout=config.dropout,
        )


def make_optimizer(config: Config, model: GPT) -> ChainedOptimizer:
    """The optimizer of this config for this model."""
    c, warmup = config, config.warmup or 0
    lr = warmup_cosine(peak=c.lr, warmup=warmup, total=c.updates)
    adamw = AdamW(lr=lr, betas=(0.9, 0.99), weight_decay=c.weight_decay)
    by_label = partition({"decay": adamw, "no_decay": evolve(adamw, weight_decay=0.0)}, decay_labels(model))
    averaged = ema(by_label, decay=linear(0.0, c.ema, steps=max(1, warmup)))  # forgets the first weights
    return chain(ClipNorm(c.clip), averaged)


def make_job(config: Config, text: bytes, folder: Path | None = None, info: Mapping[str, Any] | None = None) -> Job:
    """The job of this config on this text; its checkpoints go into `folder`, with `info` in them."""
    c = config
    train, held_out = (Windows(part, c.context) for part in split(text, c.context))
    # the last few windows of an epoch are left out: each shape of a micro-batch is compiled by itself
    data = Batches(train, c.batch_size, c.micro_batches, seed=c.seed, tail="full", seed_samples=False)
    validation = Batches(held_out, batch_size=64, shuffle=False, seed_samples=False)
    model = make_model(c)
    optimizer = make_optimizer(c, model)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        loss=loss,
        train_loader=data,
        val_loader=validation,
        max_steps=c.updates,
        precision=cast(Precision, c.precision),
        compile=c.compile,
        eval_interval=c.eval_every,
        save_interval=None if folder is None else c.save_every,
        log_interval=c.log_every,
        save_dir=folder,
        monitor="bits_per_byte",
        info={"config": c.as_json(), "optimizer": repr(optimizer), **(info or {})},
        callbacks=[Progress(unit="tokens", figures=("loss", "bits_per_byte", "lr"), every=c.log_every)],
        seed=c.seed,
        progress=False,
    )
    return Job(config=c, model=model, data=data, held_out=validation, trainer=trainer)
