"""What a law is: a plain function with one sentence, and the domain in which it holds."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, Unpack, cast

import attrs
import torch

from ..errors import FnoptError, UsageError
from .strategies import Drawn, Values, sample

Kind: TypeAlias = Literal["optimizer", "transform", "schedule"]
Where: TypeAlias = Callable[[Any, Drawn], str]  # why a law does not apply to a thing, so drawn; "" where it does
Body = TypeVar("Body", bound=Callable[[Any, Any], None])


class BrokenLawError(FnoptError, AssertionError):
    """A law that does not hold; the message says where, and what was expected."""


@attrs.frozen(eq=False)
class Law:
    """A law and its domain: for which kinds of things, on which values, and under which conditions it holds."""

    run: Callable[[Any, Any], None]
    kinds: tuple[Kind, ...]
    values: Values
    where: tuple[Where, ...]

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.run.__name__

    @property
    def sentence(self) -> str:
        """What must hold: the first paragraph of the docstring."""
        return " ".join((self.run.__doc__ or "").split("\n\n")[0].split())

    def excuse(self, thing: Any, **drawn: Unpack[Drawn]) -> str:
        """Why the law does not apply to this thing on cases so drawn; an empty string where it does."""
        kind = kind_of(thing)
        if kind not in self.kinds:
            return f"is for {' and '.join(f'{kind}s' for kind in self.kinds)}"
        return next((excuse for where in self.where if (excuse := where(thing, drawn))), "")


KINDS: dict[str, Kind] = {"update": "optimizer", "transform": "transform"}
LAWS: dict[str, Law] = {}


def law(*kinds: Kind, values: Values = "any", where: Sequence[Where] = ()) -> Callable[[Body], Body]:
    """Register a function as a law of all things of these kinds; the function stays as it is.

    `values` says on what numbers it holds: "any" (nan and infinities too), "finite", or "tame" (at most 100, so that
    nothing overflows). Each of `where` gives a reason why it does not apply, or "".
    """

    def register(body: Body) -> Body:
        LAWS[body.__name__] = Law(body, kinds, values, tuple(where))
        return body

    return register


def kind_of(thing: Any) -> Kind:
    """Whether a thing is an optimizer, a transform or a schedule, by its methods.

    Raises UsageError for anything else, and for a class in place of an instance.
    """
    if isinstance(thing, type):
        raise UsageError(f"laws: got the class {thing.__name__}, expected an instance; write {thing.__name__}(…)")
    if hasattr(thing, "init_state"):
        for method, kind in KINDS.items():
            if callable(getattr(thing, method, None)):
                return kind
    elif callable(thing) and not isinstance(thing, torch.nn.Module):
        return "schedule"
    raise UsageError(
        f"laws: got {thing!r}, expected an Optimizer (init_state, update), a GradTransform (init_state, transform) or "
        "a Schedule (called with a step)"
    )


def in_scope(*scopes: str) -> Where:
    """Only things that declare one of these scopes."""

    def where(thing: Any, _: Drawn) -> str:
        scope = getattr(thing, "scope", "leaf")
        return "" if scope in scopes else f"has scope {scope!r}"

    return where


def is_a(*classes: type) -> Where:
    """Only instances of these classes."""

    def where(thing: Any, _: Drawn) -> str:
        return "" if isinstance(thing, classes) else f"is no {' or '.join(kind.__name__ for kind in classes)}"

    return where


def has_own(name: str) -> Where:
    """Only things with a hyperparameter of that name."""

    def where(thing: Any, _: Drawn) -> str:
        return "" if hasattr(thing, name) else f"has no {name}"

    return where


def has_field(name: str) -> Where:
    """Only things with a hyperparameter of that name, their own or of a part."""

    def where(thing: Any, _: Drawn) -> str:
        return "" if any(found == name for found, _ in fields_of(thing)) else f"has no {name}"

    return where


def has_step(thing: Any, drawn: Drawn) -> str:
    """Only things with a step count in their state."""
    state = thing.init_state(sample(**drawn))
    return "" if any(name == "step" for name, _ in fields_of(state)) else "has no step in its state"


def nameless(_: Any, drawn: Drawn) -> str:
    """Only things to which the names of parameters mean nothing."""
    return "knows its parameters by name" if "names" in drawn else ""


def fields_of(thing: Any, seen: set[int] | None = None) -> list[tuple[str, Any]]:
    """All fields of a thing by name, and those of its parts; entries of dicts are fields, those of tuples nameless."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    items = [("", part) for part in cast(Sequence[Any], thing)] if isinstance(thing, tuple | list) else None
    own = list(_own_fields(thing).items()) if items is None else items
    return own + [pair for _, value in own for pair in fields_of(value, seen)]


def with_field(thing: Any, name: str, value: Any) -> Any:
    """A variant of the thing, in which every field of that name, also of its parts, has this value."""
    if isinstance(thing, dict):
        return {key: with_field(part, name, value) for key, part in cast(dict[str, Any], thing).items()}
    if isinstance(thing, tuple | list):
        parts = [with_field(part, name, value) for part in cast(Sequence[Any], thing)]
        return tuple(parts) if isinstance(thing, tuple) else parts
    own, kind = _own_fields(thing), cast(type[Any], thing.__class__)
    if not own:
        return thing
    changes = {key: value if key == name else with_field(old, name, value) for key, old in own.items()}
    if attrs.has(kind):
        return attrs.evolve(thing, **changes)
    if dataclasses.is_dataclass(kind):
        return dataclasses.replace(thing, **changes)
    variant = copy.copy(thing)
    variant.__dict__.update(changes)
    return variant


def _own_fields(thing: Any) -> dict[str, Any]:
    kind = cast(type[Any], thing.__class__)
    if issubclass(kind, dict):
        return cast(dict[str, Any], thing)
    if attrs.has(kind):
        return {field.name: getattr(thing, field.name) for field in attrs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(kind)}
    if isinstance(thing, torch.Tensor | torch.nn.Module) or callable(thing):
        return {}
    return dict(getattr(thing, "__dict__", {}))
