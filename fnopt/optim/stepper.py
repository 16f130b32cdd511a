"""Stepper: one step of a stateful optimizer, group by group. Private to the adapters.

Each parameter of an elementwise rule is a row: itself, what is remembered of it, its gradient. Rows are updated in
place, small ones together in their home. All else goes through the pure update as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import capturable_devices, not_compiled, traced
from ..record import is_record
from . import plain
from .groups import ParamGroup, Rules
from .home import Home
from .plan import Plan, Single
from .player import Player
from .skeleton import Skeleton

Pair = tuple[Tensor, Tensor]  # a parameter and its gradient


class Stepper:
    """What an optimizer keeps between steps to be fast; nothing in it is worth saving."""

    def __init__(self, compiled: bool):
        self.rules = Rules()
        self._player = Player(compiled)
        self._plans: dict[int, Plan] = {}
        self._homes: list[Home] = []

    @not_compiled
    def step(self, optimizer: Any) -> None:
        """One update of all parameters with gradients."""
        for group in optimizer.param_groups:
            if group.get("capturable"):
                _check_capturable(group)
        grads = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        if optimizer._transform().transforms:
            grads = plain.transformed(optimizer, grads)
        held = list(map(id, optimizer.state.values()))
        for place, its in enumerate(grads):
            optimizer._adopt(place)
            group = optimizer.param_groups[place]
            live = [(p, g) for p, g in zip(group["params"], its, strict=True) if g is not None]
            if live:
                self._update(optimizer, place, live, held)
            if isinstance(group, ParamGroup):
                group.show(optimizer._shown_now(group))

    def _update(self, optimizer: Any, place: int, live: list[Pair], held: Sequence[int]) -> None:
        group = optimizer.param_groups[place]
        rule = self.rules.of(place, group, optimizer._rule)
        skeleton = Skeleton.of(rule)
        if any(grad.layout is not torch.strided for _, grad in live):
            live = optimizer._sparse(group, rule, skeleton, live)
        params, grads = [p for p, _ in live], [g for _, g in live]
        if traced() or torch.is_grad_enabled() or group.get("capturable"):
            optimizer._begin(group, rule, skeleton, params)
            return plain.update(optimizer, rule, skeleton, live)
        plan = self._plans.get(place)
        if plan is None or not plan.holds(skeleton, params, held):
            plan = self._plans[place] = self._planned(optimizer, group, rule, skeleton, params)
        left = plan.play(self._player, rule, grads)
        return plain.update(optimizer, rule, skeleton, [live[at] for at in left])

    def _planned(
        self, optimizer: Any, group: Mapping[str, Any], rule: Any, skeleton: Skeleton, live: Sequence[Tensor]
    ) -> Plan:
        clocks = [optimizer._clock(optimizer.state.get(param, {})) for param in live]
        keys = optimizer._begin(group, rule, skeleton, live)
        plan = Plan(skeleton, live, list(map(id, optimizer.state.values())))
        if not _by_rows(rule, skeleton):
            plan.left = list(range(len(live)))
            return plan
        singles = [
            Single(param, optimizer.state.get(param, {}), key, clock)
            for param, key, clock in zip(live, keys, clocks, strict=True)
        ]
        plan.settle(singles, self._homes)
        return plan


def _by_rows(rule: Any, skeleton: Skeleton) -> bool:
    """May each parameter be updated alone, by what its own state holds?"""
    return getattr(rule, "scope", "leaf") == "element" and is_record(rule) and set(skeleton.shared) <= {"step"}


def _check_capturable(group: Mapping[str, Any]) -> None:
    """torch's own rule of where a step may be captured in a graph."""
    devices = capturable_devices()
    if not all(p.device.type in devices for p in group["params"] if p.grad is not None):
        raise AssertionError(f"If capturable=True, params and state_steps must be on supported devices: {devices}.")
