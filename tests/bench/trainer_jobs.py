"""Two jobs to train: scikit-learn's digits, and the main job made smaller.

Their data has no smaller tail: Lightning divides the loss of a tail by the full number of micro-batches, fnopt by the
samples that are there.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import fnopt
from fnopt.cli.config import Config
from fnopt.cli.job import make_model
from fnopt.cli.text import Windows, read_text, split

MICRO = 2  # micro-batches of an update


@attrs.frozen
class Job:
    """What is trained on what, and how.

    margins   what is called a difference, of the loss and of the accuracy; fixed before the first run
    same      for how many epochs all get the same batches, to see how far apart they end
    """

    name: str
    what: str
    model: Callable[[int], nn.Module]
    train: Dataset[Any]
    held_out: Dataset[Any]
    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    precision: str
    margins: dict[str, float]
    seeds: int
    same: tuple[int, ...]

    @property
    def updates(self) -> int:
        """In all."""
        return self.epochs * (len(self.train) // (MICRO * self.batch_size))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """torch's AdamW; norms and biases do not decay."""
        params = list(model.parameters())
        decay, none = [p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": self.weight_decay}, {"params": none, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.99))

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """A tenth of the updates up, then a cosine down to 0."""
        warmup = self.updates // 10

        def factor(t: int) -> float:
            if t < warmup:
                return (t + 1) / warmup
            return (1 + math.cos(math.pi * (t - warmup) / (self.updates - warmup))) / 2

        return LambdaLR(optimizer, factor)

    def batches(self, seed: int) -> fnopt.Batches:
        """All updates, each a list of micro-batches, in one order."""
        return fnopt.Batches(self.train, self.batch_size, MICRO, seed=seed, seed_samples=False)

    def loader(self, seed: int) -> DataLoader[Any]:
        """Micro-batches in an order of torch's."""
        own = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, generator=own)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The mean loss in nats and the accuracy on what was held out, in float32; of all ways by this very code."""
        model.eval()
        loss = right = count = 0.0
        with torch.no_grad():
            for x, y in DataLoader(self.held_out, batch_size=256):
                logits, labels = model(x).flatten(0, -2), y.flatten()
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                right += (logits.argmax(-1) == labels).sum().item()
                count += len(labels)
        return {"loss": loss / count, "accuracy": right / count}


@cache
def digits() -> Job:
    """scikit-learn's digits: 1,797 images of 8 x 8."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    order, cut = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)), 1344  # 42 x 32: no tail

    def model(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return Job(
        name="digits",
        what="scikit-learn's digits, an MLP 64-64-64-10, fp32",
        model=model,
        train=TensorDataset(x[order[:cut]], y[order[:cut]]),
        held_out=TensorDataset(x[order[cut:]], y[order[cut:]]),
        batch_size=32,
        epochs=20,
        lr=3e-3,
        weight_decay=0.01,
        precision="fp32",
        margins={"loss": 0.03, "accuracy": 0.01},
        seeds=20,
        same=(1, 20),
    )


@cache
def main_job() -> Job:
    """The byte-level GPT of `fnopt train`, smaller and shorter, and without its average of the weights."""
    config = Config(width=96, layers=2, heads=4, context=64)
    train, held_out = (Windows(part, config.context) for part in split(read_text(()), config.context))

    def model(seed: int) -> nn.Module:
        return make_model(attrs.evolve(config, seed=seed))

    return Job(
        name="main job",
        what="the byte-level GPT of `fnopt train`, made smaller (width 96, 2 layers, context 64), bf16",
        model=model,
        train=Subset(train, range(len(train) // 32 * 32)),
        held_out=held_out,
        batch_size=16,
        epochs=3,
        lr=2e-3,
        weight_decay=0.1,
        precision="bf16",
        margins={"loss": 0.02, "accuracy": 0.005},
        seeds=5,
        same=(1,),
    )
