"""The hyperparameters of a thing, whatever it is: a record, a dataclass, a plain object, a class of torch.optim."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import attrs
import torch

from . import torch_optim


def fields_of(thing: Any, seen: set[int] | None = None) -> list[tuple[str, Any]]:
    """All fields of a thing by name, and those of its parts; entries of dicts are fields, those of tuples nameless."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    items = [("", part) for part in cast(Sequence[Any], thing)] if isinstance(thing, tuple | list) else None
    own = list(own_fields(thing).items()) if items is None else items
    return own + [pair for _, value in own for pair in fields_of(value, seen)]


def with_fields(thing: Any, **values: Any) -> Any:
    """A variant of the thing, in which every field of these names, also of its parts, has its new value.

    A name that nothing has is ignored.
    """
    if torch_optim.is_one(thing):
        return torch_optim.with_arguments(thing, values)
    if isinstance(thing, dict):
        return {key: with_fields(part, **values) for key, part in cast(dict[str, Any], thing).items()}
    if isinstance(thing, tuple | list):
        parts = [with_fields(part, **values) for part in cast(Sequence[Any], thing)]
        return tuple(parts) if isinstance(thing, tuple) else parts
    own = own_fields(thing)
    changes = {key: values[key] if key in values else with_fields(old, **values) for key, old in own.items()}
    return _changed(thing, changes) if changes else thing


def _changed(thing: Any, changes: dict[str, Any]) -> Any:
    kind = cast(type[Any], thing.__class__)
    if attrs.has(kind):
        return attrs.evolve(thing, **changes)
    if dataclasses.is_dataclass(kind):
        return dataclasses.replace(thing, **changes)
    variant = copy.copy(thing)
    variant.__dict__.update(changes)
    return variant


def own_fields(thing: Any) -> dict[str, Any]:
    """The fields of the thing itself, by name."""
    if torch_optim.is_one(thing):
        return torch_optim.arguments(thing)
    kind = cast(type[Any], thing.__class__)
    if issubclass(kind, dict):
        return cast(dict[str, Any], thing)
    if attrs.has(kind):  # what does not show itself, as a cache of kernels, is no hyperparameter
        return {field.name: getattr(thing, field.name) for field in attrs.fields(kind) if field.repr}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(kind)}
    if isinstance(thing, torch.Tensor | torch.nn.Module) or callable(thing):
        return {}
    return dict(getattr(thing, "__dict__", {}))
