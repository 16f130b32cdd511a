"""Stepper: one step of a stateful optimizer, group by group. Private to the adapters.

Each parameter of an elementwise rule is a row: itself, what is remembered of it, its gradient. Rows are updated in
place, small ones together in their home. All else goes through the pure update as it is.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from .._torch import capturable_devices, not_compiled, traced
from . import plain
from .groups import ParamGroup
from .home import Home
from .plan import Plan, Single
from .player import Player
from .rule import Rule, Rules

_LAYOUT = attrgetter("layout")


class Stepper:
    """What an optimizer keeps between steps to be fast; nothing in it is worth saving."""

    def __init__(self, compiled: bool):
        self._rules = Rules()
        self._player = Player(compiled)
        self._plans: dict[int, Plan] = {}
        self._homes: list[Home] = []
        self._own: list[Any] = []  # the states that began here, or were loaded: nobody else holds their tensors

    @not_compiled
    def step(self, optimizer: Any) -> None:
        """One update of all parameters with gradients."""
        for group in optimizer.param_groups:
            if group.get("capturable"):
                _check_capturable(group)
        grads = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        held = list(map(id, optimizer.state.values()))
        if optimizer._transform().transforms:
            grads = plain.transformed(optimizer, grads)
        for place, its in enumerate(grads):
            optimizer._adopt(place)
            group = optimizer.param_groups[place]
            given = [grad for grad in its if grad is not None]
            live = group["params"]
            if len(given) < len(its):
                live = [param for param, grad in zip(live, its, strict=True) if grad is not None]
            if live:
                self._update(optimizer, place, live, given, held)
            if isinstance(group, ParamGroup):
                group.show(optimizer._shown_now(group))

    def settle(self, optimizer: Any) -> None:
        """Take over the states that were loaded, before anybody holds their tensors."""
        self._own = list(optimizer.state.values())
        for place, group in enumerate(optimizer.param_groups):
            rule = self.rule(optimizer, place)
            known = [param for param in group["params"] if optimizer.state.get(param)]
            whole = [
                param
                for param, keys in zip(known, optimizer._needs(rule, known), strict=True)
                if all(isinstance(optimizer.state[param].get(key), Tensor) for key in keys)
            ]
            singles = [
                Single(param, optimizer.state[param], keys, optimizer._clock(optimizer.state[param]))
                for param, keys in zip(whole, optimizer._needs(rule, whole), strict=True)
            ]
            if rule.by_rows:
                Plan(rule, whole, ()).settle(singles, self._homes, optimizer.state, set(map(id, self._own)))

    def rule(self, optimizer: Any, place: int) -> Rule:
        """The rule of a group, with its numbers of now."""
        return self._rules.of(place, optimizer.param_groups[place], optimizer._rule)

    def _update(self, optimizer: Any, place: int, live: list[Tensor], grads: list[Tensor], held: Sequence[int]) -> None:
        group, rule = optimizer.param_groups[place], self.rule(optimizer, place)
        if set(map(_LAYOUT, grads)) != {torch.strided}:
            left = optimizer._sparse(group, rule, list(zip(live, grads, strict=True)))
            live, grads = [param for param, _ in left], [grad for _, grad in left]
        if traced() or torch.is_grad_enabled() or group.get("capturable"):
            optimizer._begin(group, rule, live)
            return plain.update(optimizer, rule, list(zip(live, grads, strict=True)))
        plan = self._plans.get(place)
        if plan is None or not plan.holds(rule, live, held):
            plan = self._plans[place] = self._planned(optimizer, place, rule, live, held)
        apart = plan.play(self._player, rule, grads)
        return plain.update(optimizer, rule, [(live[at], grads[at]) for at in apart])

    def _planned(self, optimizer: Any, place: int, rule: Rule, live: Sequence[Tensor], held: Sequence[int]) -> Plan:
        group, state, old = optimizer.param_groups[place], optimizer.state, set(held)
        clocks = [optimizer._clock(state.get(param, {})) for param in live]
        fresh = [param for param in live if not state.get(param) or id(state[param]) not in old]
        keys = optimizer._begin(group, rule, live)
        self._own += [state[param] for param in fresh if param in state]
        plan = Plan(rule, live, list(map(id, state.values())))
        both = zip(live, keys, clocks, strict=True)
        singles = [Single(param, state.get(param, {}), key, clock) for param, key, clock in both]
        if rule.by_rows:
            plan.settle(singles, self._homes, state, set(map(id, self._own)))
        else:
            plan.left = list(range(len(live)))
        return plan


def _check_capturable(group: Mapping[str, Any]) -> None:
    """torch's own rule of where a step may be captured in a graph."""
    devices = capturable_devices()
    if not all(p.device.type in devices for p in group["params"] if p.grad is not None):
        raise AssertionError(f"If capturable=True, params and state_steps must be on supported devices: {devices}.")
