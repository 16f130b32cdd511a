"""The clock that schedules read, and their numbers at it."""

import math

import torch
from torch import Tensor

from ..tensors import at, precise
from ..types import Hyper


def values_at(step: Tensor | int, *hypers: Hyper) -> list[Tensor]:
    """The step and the hyperparameters at it, as tensors: a Schedule is asked, a tensor moves to the step's device."""
    step = step if isinstance(step, Tensor) else torch.tensor(step)
    like = step.to(precise(step.device))
    return [step, *(v.to(like) if isinstance(v, Tensor) else torch.full_like(like, v) for v in at(step, *hypers))]


def fraction(step: Tensor, steps: int) -> Tensor:
    """How much of the way is done: 0 at step 0, 1 from `steps` on."""
    return step.clamp(0, steps).to(precise(step.device)) / steps


def half_cosine(start: Tensor, end: Tensor, done: Tensor) -> Tensor:
    """Half a cosine from `start` (at done = 0) to `end` (at done = 1); both are met to the bit."""
    return torch.lerp(end, start, (1 + torch.cos(math.pi * done)) / 2)
