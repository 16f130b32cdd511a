"""Live optimizers from torch, and back."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..tensors import tensor_map
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam, AdamW
from .adapter import TorchOptimizer
from .muon import Muon
from .rmsprop import RMSprop
from .sgd import SGD

RULES = (AdamW, Adam, SGD, RMSprop, Adagrad, Adafactor, Muon)  # AdamW is an Adam: it comes first


def from_torch(optimizer: torch.optim.Optimizer) -> TorchOptimizer:
    """The drop-in for a running optimizer of torch: the same parameters, groups and state, which goes on to the bit.

    The state is copied, so either can go on. Hooks stay behind; a scheduler belongs to the optimizer that it was made
    with, and is made anew.

    >>> layer = torch.nn.Linear(2, 1)
    >>> from_torch(torch.optim.AdamW(layer.parameters(), lr=0.1)).param_groups[0]["lr"]
    0.1

    Raises UsageError for a class without a counterpart.
    """
    for kind in RULES:
        if isinstance(optimizer, kind.torch_class) and not isinstance(optimizer, TorchOptimizer):
            return _remade(kind, optimizer)
    known = [kind.__name__ for kind in RULES]
    raise UsageError(f"from_torch: got {type(optimizer).__qualname__}, expected one of torch.optim's {known}")


def to_torch(optimizer: TorchOptimizer) -> torch.optim.Optimizer:
    """torch's own optimizer for a running drop-in: the same parameters, groups and state, which goes on to the bit.

    >>> layer = torch.nn.Linear(2, 1)
    >>> type(to_torch(AdamW(layer.parameters(), lr=0.1)))
    <class 'torch.optim.adamw.AdamW'>

    Raises UsageError for a TorchOptimizer of another rule, which torch does not have.
    """
    for kind in RULES:
        if isinstance(optimizer, kind):
            return _remade(kind.torch_class, optimizer)
    known = [f"optim.{kind.__name__}" for kind in RULES]
    raise UsageError(f"to_torch: got {type(optimizer).__qualname__}, expected one of {known}")


def _remade(kind: Any, optimizer: torch.optim.Optimizer) -> Any:
    def copied(value: Tensor) -> Tensor:
        return value.detach().clone()

    made = kind.__new__(kind)
    made.__setstate__(
        {
            "defaults": dict(optimizer.defaults),
            "state": defaultdict(dict, {key: tensor_map(copied, dict(held)) for key, held in optimizer.state.items()}),
            "param_groups": [{**group, "params": list(group["params"])} for group in optimizer.param_groups],
        }
    )
    return made
