"""Adafactor as torch has it."""

from collections.abc import Mapping
from typing import Any

import torch

from ..rules.adafactor import Adafactor as PureAdafactor
from .torch_rule import Number, TorchRule, refuse_compile


class Adafactor(TorchRule, torch.optim.Adafactor):
    r"""torch.optim.Adafactor, with the update of fnopt.Adafactor: the same arguments, state_dict and bits.

    `foreach` is kept as a hint and changes nothing; `compile=True` is refused, for it looks at whole parameters.

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> optimizer = Adafactor(layer.parameters(), lr=0.1)
    >>> _ = torch.nn.init.ones_(layer.weight)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> [round(weight, 4) for weight in layer.weight[0].tolist()]
    [0.9, 0.9]

    Raises what torch.optim.Adafactor raises.
    """

    pure, torch_class = PureAdafactor, torch.optim.Adafactor

    def __init__(
        self,
        params: Any,
        lr: Number = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        compile: bool = False,
    ) -> None:
        refuse_compile("Adafactor", compile)
        self._begin_as_torch(
            False,
            params,
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
        )

    def _rule(self, group: Mapping[str, Any]) -> Any:
        first, second = group["eps"]
        dtypes = [param.dtype for param in group["params"] if param.is_floating_point()]
        if first is None and dtypes:  # torch's choice: the dtype of the first parameter
            first = torch.finfo(dtypes[0]).eps
        return super()._rule({**group, "eps": (first if first is None else float(first), float(second))})
