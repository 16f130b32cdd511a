"""Batches of samples: how they are collated, and the checks that every source of them makes."""

import copy
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from torch.utils import data as torch_data

from .errors import HyperparameterError, UsageError
from .tensors import tensor_map

Item: TypeAlias = Any  # the input of one update: a Batch, or with micro_batches a list of them
Collate: TypeAlias = Callable[[list[Any]], Any]


def brief(source: Any) -> str:
    """The repr of a dataset, whose own may be the whole dataset."""
    return f"<{type(source).__name__}>"


def check_count(owner: str, name: str, value: Any, least: int | None) -> None:
    """A count is an int (no bool, no float) of at least `least`."""
    if type(value) is not int or (least is not None and value < least):
        expected = "an int" if least is None else f"an int >= {least}"
        raise HyperparameterError(f"{owner}: {name} must be {expected}, got {value!r}")


def check_collate(owner: str, collate: Any) -> None:
    """A collate function is callable, or None."""
    if collate is not None and not callable(collate):
        raise UsageError(f"{owner}: collate must be a function of a list of samples or None, got {collate!r}")


def assemble(samples: list[Any], collate: Collate | None) -> Any:
    """One Batch from samples; torch's own collate where none is given."""
    return no_lists((collate or cast(Any, torch_data).default_collate)(samples))


def no_lists(value: Any) -> Any:
    """A Batch with tuples for lists: torch's collate turns a sample (x, y) into a list, which means micro-batches."""
    kind = cast(Any, type(value))
    if issubclass(kind, dict):
        clone = copy.copy(value)  # keeps the class, an OrderedDict's say
        clone.update({key: no_lists(item) for key, item in value.items()})
        return clone
    if hasattr(kind, "_fields"):
        return kind(*map(no_lists, value))
    return tuple(map(no_lists, value)) if kind is tuple or issubclass(kind, list) else value


def none_of(batch: Any) -> Any:
    """The same Batch without its samples: each tensor with 0 rows, and what has no rows as it is."""
    return tensor_map(lambda leaf: leaf[:0] if leaf.ndim else leaf, batch)
