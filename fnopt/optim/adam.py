"""Adam and AdamW as torch has them."""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from ..rules.adam import Adam as PureAdam
from ..rules.adamw import AdamW as PureAdamW
from .groups import number
from .torch_rule import Number, TorchRule


class Adam(TorchRule, torch.optim.Adam):
    r"""torch.optim.Adam, with the update of fnopt.Adam: the same arguments, state_dict and bits.

    `foreach` and `fused` are kept as hints and change nothing; `decoupled_weight_decay` makes it AdamW. `compile=True`
    runs the update as one compiled kernel, whose last bits may differ.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = Adam(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.9

    Raises what torch.optim.Adam raises, and HyperparameterError for a number that it lets pass and no rule can use.
    """

    pure, torch_class = PureAdam, torch.optim.Adam

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )

    def _rule(self, group: Mapping[str, Any]) -> Any:
        kind = PureAdamW if group["decoupled_weight_decay"] else PureAdam
        return kind(**{key: number(group[key]) for key in attrs.fields_dict(kind)})


class AdamW(Adam, torch.optim.AdamW):
    r"""torch.optim.AdamW, with the update of fnopt.AdamW: the same arguments, state_dict and bits, faster.

    `foreach` and `fused` are kept as hints and change nothing. `compile=True` runs the update as one compiled kernel,
    whose last bits may differ.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(layer.weight.item(), 4)
    0.85

    Raises what torch.optim.AdamW raises, and HyperparameterError for a number that it lets pass and no rule can use.
    """

    pure, torch_class = PureAdamW, torch.optim.AdamW

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        self._begin_as_torch(
            compile,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
