"""The main job, composed of fnopt's public pieces: a byte-level GPT and all that trains it. Made to be copied from."""

import math
from collections.abc import Iterable

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import (
    AdamW,
    Batches,
    ClipNorm,
    DynamicLossScale,
    StaticLossScale,
    TrainState,
    accumulate,
    autocast,
    chain,
    decay_labels,
    ema,
    evaluate,
    evolve,
    linear,
    make_step,
    partition,
    value_and_grad,
    warmup_cosine,
)
from ..randomness import seeded
from ..step import Step
from ..transforms.chain import ChainedOptimizer
from .config import Config
from .gpt import GPT
from .text import Windows, split

Batch = tuple[Tensor, Tensor]  # input and target bytes, int64 [batch_size, context] each


@attrs.frozen
class Job:
    """What is trained, by what, and on what; the run itself is a TrainState."""

    config: Config
    model: GPT
    step: Step[list[Batch]]
    data: Batches
    held_out: Batches

    def averaged(self, state: TrainState) -> TrainState:
        """The state with the averaged weights for params."""
        return evolve(state, params=self.step.eval_params(state))

    def bits_per_byte(self, state: TrainState, batches: Iterable[Batch] | None = None) -> float:
        """The mean loss on the held-out text, or on these batches, of the averaged weights, in float32."""
        batches = self.held_out if batches is None else batches
        return evaluate(self.model, loss, self.averaged(state), batches)["loss"] / math.log(2)


def loss(model: GPT, batch: Batch) -> tuple[Tensor, int]:
    """The summed cross-entropy in nats, and the number of bytes that it is a sum over."""
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"), y.numel()


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


def make_job(config: Config, text: bytes) -> Job:
    """The job of this config on this text."""
    c = config
    train, held_out = (Windows(part, c.context) for part in split(text, c.context))
    model = make_model(c)

    grad_fn = value_and_grad(model, loss)
    if c.precision != "fp32":
        grad_fn = autocast(grad_fn, torch.bfloat16 if c.precision == "bf16" else torch.float16)
    loss_scale = DynamicLossScale() if c.precision == "fp16" else StaticLossScale()

    return Job(
        config=c,
        model=model,
        step=make_step(accumulate(grad_fn), make_optimizer(c, model), loss_scale=loss_scale),
        data=Batches(train, c.batch_size, c.micro_batches, seed=c.seed, seed_samples=False),
        held_out=Batches(held_out, batch_size=64, shuffle=False, seed_samples=False),
    )
