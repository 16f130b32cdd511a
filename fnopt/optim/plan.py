"""Plan: how the parameters of one group that have gradients are updated, until they change. Private."""

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .home import SMALL, Home, overlapping
from .player import Player
from .rule import Rule

State = dict[str, Any]
Row = tuple[Tensor, Tensor]  # a parameter and its gradient


@attrs.define
class Single:
    """A parameter that is updated where it lies.

    clock   how many updates it had, where its state does not hold that
    """

    param: Tensor
    state: State
    memories: tuple[str, ...]
    clock: float


class Plan:
    """The homes of small parameters, and the single ones, each with their places in the group's live parameters.

    `left` are the places of those that cannot be updated as rows.
    """

    def __init__(self, rule: Rule, live: Sequence[Tensor], held: Sequence[int]):
        self.kind, self.live, self.held = rule.kind, list(live), list(held)
        self.homes: list[tuple[Home, list[int]]] = []
        self.singles: list[tuple[Single, int]] = []
        self.left: list[int] = []

    def settle(self, singles: Sequence[Single], homes: list[Home], held: Mapping[Tensor, State], own: set[int]) -> None:
        """Give each parameter its home: one of `homes`, a new one with others of its kind, or where it lies.

        Only states that are our `own` (by id) are moved: a client may hold the tensors of any other.
        """
        homes[:] = [home for home in homes if home.adopt([held.get(param) for param in home.params])]
        self.left = [place for place, single in enumerate(singles) if not _is_row(single)]
        places = {id(single.param): place for place, single in enumerate(singles) if place not in set(self.left)}
        housed = {id(param) for home in homes for param in home.params}
        kinds, tied = dict[Any, list[int]](), set(overlapping([single.param for single in singles]))
        for place, single in enumerate(singles):
            free = not single.state or id(single.state) in own
            if free and id(single.param) not in housed and place not in tied and _fits_home(single):
                kinds.setdefault(_kind(single), []).append(place)
        for bunch in kinds.values():
            if len(bunch) > 1:
                homes.append(_home(sorted((singles[place] for place in bunch), key=_trailing)))
        for home in homes:
            members = [places.get(id(param)) for param in home.params]
            found = [place for place in members if place is not None]
            if len(found) == len(members) and home.clock() is not None and home.keys == singles[found[0]].memories:
                self.homes.append((home, found))
        taken = {place for _, found in self.homes for place in found} | set(self.left)
        self.singles = [(single, place) for place, single in enumerate(singles) if place not in taken]

    def holds(self, rule: Rule, live: Sequence[Tensor], held: Sequence[int]) -> bool:
        """Is everything as it was? `held` are the ids of all states of the optimizer."""
        return (
            len(live) == len(self.live)
            and all(map(is_, live, self.live))
            and self.held == held
            and self.kind == rule.kind
            and all(home.intact() and home.clock() is not None for home, _ in self.homes)
        )

    def play(self, player: Player, rule: Rule, grads: Sequence[Tensor]) -> list[int]:
        """Update all parameters; returns the places of those that this rule cannot update row by row."""
        left = list(self.left)
        for home, places in self.homes:
            row = home.gather([grads[place] for place in places])
            apply = player.applier(rule, home.keys, [leaf.dtype for leaf in row], home.clock() or 0.0)
            if apply is None:
                left += places
            else:
                apply(row)
                home.scatter()
        appliers: dict[tuple[Any, ...], Any] = {}
        for single, place in self.singles:
            row = _row(single, grads[place])
            clock = _clock(single)
            key = (single.memories, tuple([leaf.dtype for leaf in row]), clock)
            if key not in appliers:
                appliers[key] = player.applier(rule, *key)
            if appliers[key] is None:
                left.append(place)
                continue
            appliers[key](row)
            single.clock += 1
            if "step" in single.state:
                single.state["step"] += 1
        return left


def _clock(single: Single) -> float:
    step = single.state.get("step")
    return single.clock if step is None else float(step)


def _row(single: Single, grad: Tensor) -> list[Tensor]:
    param = single.param
    row = [param.detach(), *(single.state[key] for key in single.memories), grad.detach()]
    if hasattr(param, "to_local"):
        row = [shard(leaf, param) for leaf in row]
    return [torch.view_as_real(leaf) if leaf.dtype.is_complex else leaf for leaf in row]


def shard(leaf: Any, param: Any) -> Tensor:
    """The part of a DTensor that lies here, laid out as the parameter's."""
    if not hasattr(leaf, "to_local"):
        return leaf
    return (leaf if leaf.placements == param.placements else leaf.redistribute(placements=param.placements)).to_local()


def _trailing(single: Single) -> tuple[int, ...]:
    """Parameters alike in all but their first dimension are gathered by one call, so they live side by side."""
    return tuple(single.param.shape[1:])


def _home(members: Sequence[Single]) -> Home:
    first = members[0]
    return Home([m.param for m in members], [m.state for m in members], first.memories, first.clock)


def _kind(single: Single) -> Any:
    """What parameters of one home have in common."""
    dtypes = tuple(single.state[key].dtype for key in single.memories)
    clock = single.state.get("step")
    stored = clock.dtype if isinstance(clock, Tensor) else None
    return single.param.dtype, single.param.device, single.memories, dtypes, stored, _clock(single)


def _is_row(single: Single) -> bool:
    """Is this a tensor with its own memory, or the shards of one, and its clock known here?"""
    step = single.state.get("step")
    known = not isinstance(step, Tensor) or step.device.type == "cpu"
    return known and (type(single.param) in (Tensor, nn.Parameter) or hasattr(single.param, "to_local"))


def _fits_home(single: Single) -> bool:
    """May it share buffers with others: small, dense, and what is remembered shaped like it?

    Not in half precision: there torch's kernels round differently at the end of a tensor than in the midst of it.
    """
    param = single.param
    return (
        _is_row(single)
        and not hasattr(param, "to_local")
        and param.numel() < SMALL
        and not param.dtype.is_complex
        and param.dtype.itemsize >= 4
        and all(
            single.state[key].shape == param.shape
            and single.state[key].device == param.device
            and not single.state[key].is_shared()
            for key in single.memories
        )
    )
