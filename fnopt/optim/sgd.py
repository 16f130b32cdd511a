"""SGD as torch has it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..rules.sgd import SGD as PureSGD
from .rule import Rule
from .torch_rule import Number, TorchRule


class SGD(TorchRule, torch.optim.SGD):
    r"""torch.optim.SGD, with the update of fnopt.SGD: the same arguments, state_dict and bits.

    `foreach` and `fused` are kept as hints and change nothing. `compile=True` runs the update as one compiled kernel,
    whose last bits may differ. Sparse gradients are taken, as in torch.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = SGD(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.9

    Raises what torch.optim.SGD raises.
    """

    pure, torch_class = PureSGD, torch.optim.SGD
    _counts = False

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Number = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _clock(self, state: Mapping[str, Any]) -> float:
        return 0.0 if state.get("momentum_buffer") is None else 1.0  # the rule asks only whether it is the first

    def _sparse(
        self, group: Mapping[str, Any], rule: Rule, live: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        if group["weight_decay"] != 0:
            raise RuntimeError("SGD: weight_decay is not compatible with sparse gradients; use weight_decay=0")
        if group["momentum"] != 0:  # zeros move, too
            return [(p, g if g.layout is torch.strided else g.to_dense()) for p, g in live]
        return self._by_entries(rule, live)
