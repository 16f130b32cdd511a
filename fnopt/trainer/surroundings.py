"""What a training changes around it, and gives back: the model's mode, torch's determinism."""

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from ..signals import Stop

T = TypeVar("T")


class Stopped(KeyboardInterrupt):
    """A signal came in the middle of a validation, which a resumed run does again."""


def until(stop: Stop, items: Iterable[T]) -> Iterator[T]:
    """The items, and Stopped in the place of the next one if a signal has come."""
    for item in items:
        if stop.requested:
            raise Stopped
        yield item


@contextmanager
def train_mode(model: nn.Module) -> Generator[None]:
    """Inside, a model that is in eval mode as a whole is in train mode; parts of a model in train mode stay frozen.

    >>> model = nn.Sequential(nn.Dropout()).eval()
    >>> with train_mode(model):
    ...     print(model.training)
    True
    >>> model.training
    False
    """
    modes = [(module, module.training) for module in model.modules()]
    if not model.training:
        model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def determinism(wanted: bool) -> Generator[None]:
    """Inside, torch takes deterministic algorithms only, if wanted; an operation that has none is torch's error."""
    cudnn: Any = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    searches = cudnn.benchmark
    if wanted:
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = searches


def is_program() -> bool:
    """Does Python run a program, rather than a notebook or a prompt? Only a program may be ended.

    A program has a file, or is the text of `python -c` or of stdin; IPython runs both kinds and stays afterwards.
    """
    ipython: Any = sys.modules.get("IPython")
    if hasattr(sys, "ps1") or sys.flags.interactive or (ipython is not None and ipython.get_ipython() is not None):
        return False
    return hasattr(sys.modules["__main__"], "__file__") or sys.argv[:1] in ([], [""], ["-"], ["-c"])
