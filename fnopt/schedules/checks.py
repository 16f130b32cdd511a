"""Validators of schedules' fields: what, got, expected, fix."""

from collections.abc import Callable, Iterable
from operator import ge
from typing import Any, TypeAlias, TypeVar, cast

import attrs

from ..errors import HyperparameterError

Field: TypeAlias = "attrs.Attribute[Any]"
Check: TypeAlias = Callable[[Any, Field, Any], None]
T = TypeVar("T")


def at_least(low: int, fix: str) -> Check:
    """An int, and no smaller."""

    def check(instance: Any, attribute: Field, value: Any) -> None:
        if type(value) is not int or value < low:
            raise wrong(instance, attribute, value, f"must be an int >= {low}", fix)

    return check


updates = at_least(1, "it is a number of updates")


def flag(instance: Any, attribute: Field, value: Any) -> None:
    """A bool."""
    if not isinstance(value, bool):
        raise wrong(instance, attribute, value, "must be a bool", "it chooses a formula")


def one_of(*names: str) -> Check:
    """One of these strings."""

    def check(instance: Any, attribute: Field, value: Any) -> None:
        if value not in names:
            raise wrong(instance, attribute, value, f"must be {' or '.join(map(repr, names))}", "it names a formula")

    return check


def increasing(instance: Any, attribute: Field, value: Any) -> None:
    """A tuple of steps, each after the one before it and the first after 0."""
    counts = cast(tuple[Any, ...], value)
    if not isinstance(value, tuple) or any(type(n) is not int for n in counts) or any(map(ge, (0, *counts), counts)):
        raise wrong(instance, attribute, value, "must be increasing ints >= 1", "each is a number of updates")


def are_schedules(instance: Any, attribute: Field, value: Any) -> None:
    """A tuple of Schedules, one or more."""
    parts = cast(tuple[Any, ...], value)
    if not parts or not isinstance(value, tuple) or not all(map(callable, parts)):
        raise wrong(instance, attribute, value, "must be a list of Schedules", "a number is constant(number)")


def one_fewer(instance: Any, attribute: Field, value: Any) -> None:
    """As many boundaries as there are places between the schedules."""
    parts = len(instance.schedules)
    if len(value) != parts - 1:
        expected = f"must be {parts - 1} numbers for {parts} schedules"
        raise wrong(instance, attribute, value, expected, "each is the step at which the next schedule begins")


def wrong(instance: Any, attribute: Field, value: Any, expected: str, fix: str) -> HyperparameterError:
    """The error for a field's value."""
    return HyperparameterError(f"{type(instance).__name__}: {attribute.name} {expected}, got {value!r}; {fix}")


def as_tuple(values: Iterable[T]) -> tuple[T, ...]:
    """A converter: any iterable as a tuple; the rest stays, for the validators to name what is wrong with it."""
    return tuple(values) if hasattr(values, "__iter__") else cast(Any, values)
