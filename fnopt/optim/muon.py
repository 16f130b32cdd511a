"""Muon as torch has it."""

from collections.abc import Mapping
from typing import Any

import torch

from ..rules.muon import Muon as PureMuon
from .torch_rule import TorchRule, refuse_compile


class Muon(TorchRule, torch.optim.Muon):
    r"""torch.optim.Muon, with the update of fnopt.Muon: the same arguments, state_dict and bits.

    `compile=True` is refused, for it looks at whole parameters.

    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
    >>> _ = torch.nn.init.eye_(layer.weight)
    >>> (7 * layer(torch.eye(2)).diagonal()).sum().backward()
    >>> optimizer.step()
    >>> bool((layer.weight.diagonal() < 0.94).all())
    True

    Raises what torch.optim.Muon raises, and HyperparameterError for a momentum of 1 or more.
    """

    pure, torch_class = PureMuon, torch.optim.Muon
    _counts = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        compile: bool = False,
    ) -> None:
        refuse_compile("Muon", compile)
        self._begin_as_torch(
            False,
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )

    def _clock(self, state: Mapping[str, Any]) -> float:
        return 0.0  # nothing of the rule depends on it
