"""Param groups: where clients of torch read and write hyperparameters. Private to the adapters."""

from collections.abc import Mapping
from numbers import Real
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

    def __ior__(self, other: Any) -> "ParamGroup":
        self.update(other)
        return self

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
    is_float = isinstance(value, Real) and not isinstance(value, int)
    return float(value) if is_float else value


def names_of(optimizer: Any) -> list[list[str]] | None:
    """The names of the parameters of each group; None where some have none."""
    groups = [group.get("param_names") for group in optimizer.param_groups]
    return None if None in groups else [list(names) for names in groups]


def labels_of(optimizer: Any) -> list[list[str]]:
    """What pure functions call the parameters of each group: their names; where some have none, their numbers."""
    listed = names_of(optimizer)
    if listed is not None:
        return listed
    counts = [len(group["params"]) for group in optimizer.param_groups]
    numbers = iter(range(sum(counts)))
    return [[str(next(numbers)) for _ in range(count)] for count in counts]
