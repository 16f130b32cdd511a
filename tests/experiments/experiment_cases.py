"""A tiny thing to train, and runs of the `fnopt` command that take no time."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from fnopt import Batches
from fnopt.experiments.task import Task

SYMBOLS, CONTEXT = 8, 4
TINY = ["--width", "8", "--layers", "1", "--heads", "2", "--context", "8", "--batch-size", "2", "--threads", "1"]


def loss(model, batch):
    """The summed cross-entropy, and of how many samples."""
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="sum"), y.numel()


def task(batch_size=4, micro_batches=2, dtype=torch.float32, seed=0):
    """What comes after four symbols, where the next one is mostly the last but one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(SYMBOLS, (200, CONTEXT), generator=generator)
    y = torch.where(torch.rand(200, generator=generator) < 0.8, x[:, -2], x[:, 0])
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Embedding(SYMBOLS, 4), nn.Flatten(), nn.Linear(4 * CONTEXT, 16), nn.Tanh(), nn.Linear(16, SYMBOLS)
        ).to(dtype)
    data = Batches(TensorDataset(x[:160], y[:160]), batch_size, micro_batches, seed=seed, tail="drop")
    return Task(model, loss, data, [(x[160:], y[160:])])
