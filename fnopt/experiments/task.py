"""What an experiment trains: a model with its first weights, a loss, and batches."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from ..accumulate import accumulate
from ..data import Batches
from ..grads import GradFn, value_and_grad
from ..loop import evaluate
from ..precision import autocast
from ..rules.adamw import AdamW
from ..rules.labels import decay_labels
from ..rules.partition import partition
from ..schedules import warmup_cosine
from ..state import TrainState
from ..tensors import device_of
from ..transforms.chain import chain
from ..transforms.clip import ClipNorm
from ..types import Hyper, Optimizer, Schedule, Tensors


@attrs.frozen
class Task:
    """One thing to train, which no experiment changes: each works on copies.

    loss      (model, batch) -> (loss_sum, weight)
    data      of full items only, so that every update weighs the same
    held_out  the batches that a result is judged by
    unit      what the weight counts
    """

    model: nn.Module
    loss: Callable[..., Any]
    data: Batches
    held_out: Sequence[Any]
    unit: str = "samples"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(dict(self.model.named_parameters()))

    @property
    def about(self) -> str:
        """The model and its size, in words."""
        size = sum(param.numel() for param in self.model.parameters())
        return f"{type(self.model).__name__} of {size:,} parameters"

    def grad_fn(self, dtype: torch.dtype | None = None) -> GradFn[Any]:
        """The gradient of an item of the data, under autocast if there is a dtype."""
        grad_fn = value_and_grad(self.model, self.loss)
        if dtype is not None:
            grad_fn = autocast(grad_fn, dtype)
        return grad_fn if self.data.micro_batches is None else accumulate(grad_fn)

    def by_label(self, make: Callable[[Any], Optimizer[Any]], decay: Hyper) -> Optimizer[Any]:
        """The rule with this weight decay for matrices, and without for all else."""
        return partition({"decay": make(decay), "no_decay": make(0.0)}, decay_labels(self.model))

    def judge(self, params: Tensors) -> float:
        """The mean loss of these params on the held-out batches, in float32."""
        return evaluate(self.model, self.loss, TrainState.of(params), self.held_out)["loss"]


def clipped_adamw(task: Task, lr: Hyper | Schedule, weight_decay: Hyper, clip: Hyper) -> Optimizer[Any]:
    """The optimizer of the main job without its average: clip, then AdamW with decay for matrices only."""

    def adamw(decay: Any) -> AdamW:
        return AdamW(lr=lr, betas=(0.9, 0.99), weight_decay=decay)

    return chain(ClipNorm(clip), task.by_label(adamw, weight_decay))


def warmed(peak: float | Tensor, updates: int) -> Schedule:
    """From a tenth of the peak up to it in a tenth of the updates, then the cosine to 0."""
    return warmup_cosine(start=peak / 10, peak=peak, warmup=updates // 10, total=updates)


def rates_of(schedule: Schedule, updates: int) -> list[float]:
    """The rate of each update."""
    return [float(schedule(torch.tensor(place))) for place in range(updates)]
