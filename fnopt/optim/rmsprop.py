"""RMSprop as torch has it."""

from typing import Any

import torch

from ..rules.rmsprop import RMSprop as PureRMSprop
from .torch_rule import Number, TorchRule


class RMSprop(TorchRule, torch.optim.RMSprop):
    r"""torch.optim.RMSprop, with the update of fnopt.RMSprop: the same arguments, state_dict and bits.

    `foreach` is kept as a hint and changes nothing. `compile=True` runs the update as one compiled kernel, whose last
    bits may differ.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = RMSprop(layer.parameters(), lr=0.1, alpha=0.75)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.8

    Raises what torch.optim.RMSprop raises, and HyperparameterError for an alpha of 1 or more.
    """

    pure, torch_class = PureRMSprop, torch.optim.RMSprop

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )
