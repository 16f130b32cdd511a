"""Param groups: where clients of torch read and write hyperparameters. Private to the adapters."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor

from ..errors import UsageError


class ParamGroup(dict[str, Any]):
    """A param group some of whose values are those of a Schedule: shown, and not to be changed."""

    scheduled: frozenset[str] = frozenset()

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self.scheduled and value != self.get(key):
            raise UsageError(
                f"TorchOptimizer: {key} follows the Schedule that the optimizer was made with, got {key}={value!r}; "
                f"to write it, or to let a scheduler of torch write it, make the optimizer with {key} a number"
            )
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict, by the same rule."""
        for key, value in dict[str, Any](*args, **kwargs).items():
            self[key] = value

    def __reduce_ex__(self, protocol: Any) -> Any:  # copies and pickles are plain; an optimizer makes its own anew
        return dict, (dict(self),)

    def show(self, values: Mapping[str, Any]) -> None:
        """The values of the Schedules now."""
        super().update(values)


def number(value: Any) -> Any:
    """A value of a param group as a pure rule takes it: what clients make of floats (numpy's, ints, lists) is one."""
    if isinstance(value, Tensor):
        return value if value.ndim == 0 else value.reshape(())
    if isinstance(value, list | tuple):
        return tuple(number(item) for item in cast("list[Any]", value))
    if value is None or isinstance(value, bool | str | int) or callable(value):
        return value
    return float(value)


class Rules:
    """The rule of each group, made again only where a value of the group changed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], Any]] = {}

    def of(self, place: int, group: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> Any:
        """The rule of the group at this place."""
        values = [value for key, value in group.items() if key != "params"]
        if place in self._known:
            before, rule = self._known[place]
            if len(before) == len(values) and all(map(_same, before, values)):
                return rule
        rule = make(group)
        self._known[place] = values, rule
        return rule


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        mine, its = cast(tuple[Any, ...], a), cast(tuple[Any, ...], b)
        return len(mine) == len(its) and all(map(_same, mine, its))
    return not isinstance(a, Tensor | tuple) and not isinstance(b, Tensor) and type(a) is type(b) and bool(a == b)
