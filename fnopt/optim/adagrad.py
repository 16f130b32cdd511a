"""Adagrad as torch has it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..rules.adagrad import Adagrad as PureAdagrad
from .rule import Rule
from .torch_rule import Number, TorchRule


class Adagrad(TorchRule, torch.optim.Adagrad):
    r"""torch.optim.Adagrad, with the update of fnopt.Adagrad: the same arguments, state_dict and bits.

    `foreach` and `fused` are kept as hints and change nothing. `compile=True` runs the update as one compiled kernel,
    whose last bits may differ. A sparse gradient updates the entries that it names, as in torch.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = Adagrad(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.9

    Raises what torch.optim.Adagrad raises.
    """

    pure, torch_class = PureAdagrad, torch.optim.Adagrad

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )

    def _sparse(
        self, group: Mapping[str, Any], rule: Rule, live: list[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        if group["weight_decay"] != 0:
            raise RuntimeError("weight_decay option is not compatible with sparse gradients")
        return self._by_entries(rule, live)
