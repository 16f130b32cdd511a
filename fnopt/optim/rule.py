"""The rule of a param group, taken apart once and kept as long as the numbers of the group stay. Private."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
from torch import Tensor

from ..compile.kind import Kind, index, taken_apart
from ..record import is_record
from .skeleton import Skeleton

KINDS: list[Kind] = []
_SKELETONS: dict[int, Skeleton] = {}


@attrs.frozen(eq=False)
class Rule:
    """A pure optimizer, and what a step asks of it again and again.

    kind     which of KINDS it is: all that differ in numbers only are of one kind; below 0 one of its own
    numbers  the others, in the order of the kind
    """

    pure: Any
    kind: int
    numbers: list[Any]
    skeleton: Skeleton

    @classmethod
    def of(cls, pure: Any) -> "Rule":
        """Take it apart."""
        if not is_record(pure):
            return cls(pure, -1 - id(pure), [], Skeleton.of(pure))
        kind, numbers = taken_apart(pure)
        place = index(KINDS, kind)
        if place not in _SKELETONS:
            _SKELETONS[place] = Skeleton.of(pure)
        return cls(pure, place, numbers, _SKELETONS[place])

    @property
    def by_rows(self) -> bool:
        """May each parameter be updated alone, in place, by what its own state holds?"""
        entries_alone = self.kind >= 0 and getattr(self.pure, "scope", "leaf") == "element"
        return entries_alone and set(self.skeleton.shared) <= {"step"}


class Rules:
    """The rule of each group, made again only where a value of the group changed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], Rule]] = {}

    def of(self, place: int, group: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> Rule:
        """The rule of the group at this place."""
        values = [value for key, value in group.items() if key != "params"]
        if place in self._known:
            before, rule = self._known[place]
            if len(before) == len(values) and all(map(_same, before, values)):
                return rule
        rule = Rule.of(make(group))
        self._known[place] = values, rule
        return rule


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        mine, its = cast(tuple[Any, ...], a), cast(tuple[Any, ...], b)
        return len(mine) == len(its) and all(map(_same, mine, its))
    return not isinstance(a, Tensor | tuple) and not isinstance(b, Tensor) and type(a) is type(b) and bool(a == b)
