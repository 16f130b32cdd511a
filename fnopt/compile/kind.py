"""Kinds: what steps share that differ in numbers only, for which one program is enough. Private to `compiled`."""

from collections.abc import Hashable, Iterator
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from .._torch import tree_flatten, tree_unflatten
from ..record import is_record
from ..tensors import precise
from .program import CannotCompileError, Leaves, looks

Numbers = list[float | Tensor]

_NUMBER = object()


@attrs.frozen
class Kind:
    """A step without its numbers: what is the same in all that `evolve` makes of it with other floats and tensors.

    `fixed` are the leaves, with a mark where an input goes. A float that is exactly 0 is none: it may switch a memory
    of a rule off, and is structure.
    """

    structure: Any
    fixed: tuple[Any, ...]

    def step(self, numbers: list[Any]) -> Any:
        """The step with these numbers."""
        given = iter(numbers)
        return tree_unflatten([next(given) if leaf is _NUMBER else leaf for leaf in self.fixed], self.structure)

    def modules(self) -> list[nn.Module]:
        """Every module inside, once: their training flags are part of what a trace sees."""
        step = self.step([0.0 for leaf in self.fixed if leaf is _NUMBER])
        return list(dict.fromkeys(module for root in _modules(step) for module in root.modules()))

    def is_ours(self) -> bool:
        """Is the step made of fnopt's own parts down to the loss? These compute nothing with position and seed."""
        return _ours(self.step([0.0 for leaf in self.fixed if leaf is _NUMBER]))


def _ours(step: Any) -> bool:
    parts = [getattr(step, name) for name in ("inner", "grad_fn") if hasattr(step, name)]
    return type(step).__module__.startswith("fnopt.") and all(map(_ours, parts))


def taken_apart(step: Any) -> tuple[Kind, Numbers]:
    """The kind of a step, and its numbers."""
    leaves, structure = tree_flatten(step)
    numbers = [_is_number(leaf) for leaf in leaves]
    fixed = tuple(_NUMBER if number else leaf for number, leaf in zip(numbers, leaves, strict=True))
    return Kind(structure, fixed), [leaf for number, leaf in zip(numbers, leaves, strict=True) if number]


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) or (isinstance(leaf, float) and leaf != 0.0)


def _modules(value: Any) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif is_record(value):
        for field in attrs.fields(cast(Any, type(value))):
            yield from _modules(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in cast("list[Any]", value):
            yield from _modules(item)
    elif isinstance(value, dict):
        for item in cast("dict[Any, Any]", value).values():
            yield from _modules(item)


class Kinds:
    """The kinds known, and the step taken apart last: a loop calls the same one again and again."""

    def __init__(self) -> None:
        self._known: list[Kind] = []
        self._modules: list[list[nn.Module]] = []
        self._step: Any = None
        self._number = 0
        self._numbers: Numbers = []
        self._inputs: dict[torch.device, tuple[Leaves, int]] = {}
        self._looks: list[Hashable] = []

    def number(self, step: Any) -> int:
        """The place of this step's kind among those known."""
        if step is not self._step:
            kind, numbers = taken_apart(step)
            number = index(self._known, kind)
            if number == len(self._modules):
                self._modules.append(kind.modules())
            self._step, self._number, self._numbers, self._inputs = step, number, numbers, {}
        return self._number

    def last(self, device: torch.device) -> tuple[Kind, Numbers, Leaves, int]:
        """Of the step asked for last: kind, numbers, these as tensors (floats as float64), and their looks."""
        if device not in self._inputs:
            if any(isinstance(value, Tensor) and value.requires_grad for value in self._numbers):
                raise CannotCompileError("a hyperparameter requires grad")
            tensors = [
                value if isinstance(value, Tensor) else torch.tensor(value, dtype=precise(device), device=device)
                for value in self._numbers
            ]
            self._inputs[device] = tensors, index(self._looks, tuple(map(looks, tensors)))
        return self._known[self._number], self._numbers, *self._inputs[device]

    def flags(self, number: int, device: torch.device) -> tuple[Hashable, ...]:
        """What else a trace of this kind depends on."""
        return (
            tuple([module.training for module in self._modules[number]]),
            torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
        )


def index(known: list[Any], thing: Any) -> int:
    """The place of a thing among those known; a new one is added."""
    for place, other in enumerate(known):
        if other is thing or other == thing:
            return place
    known.append(thing)
    return len(known) - 1
