"""Where a law holds: conditions on things, each of which says why a law does not apply, or "" where it does."""

from typing import Any

from ..errors import FnoptError
from ..transforms.noise import AddNoise
from .bits import apply
from .fields import fields_of, own_fields, with_fields
from .kinds import kind_of
from .law import Where
from .strategies import Drawn, sample


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


def has_own(*names: str) -> Where:
    """Only things with hyperparameters (or methods) of these names, their own."""

    def where(thing: Any, _: Drawn) -> str:
        own = own_fields(thing)
        missing = [name for name in names if name not in own and not hasattr(thing, name)]
        return f"has no {missing[0]}" if missing else ""

    return where


def takes(name: str, value: Any) -> Where:
    """Only things with a hyperparameter of that name, their own or of a part, that may have this value."""

    def where(thing: Any, drawn: Drawn) -> str:
        if not any(found == name for found, _ in fields_of(thing)):
            return f"has no {name}"
        try:
            variant = with_fields(thing, **{name: value})
            if kind_of(thing) == "torch optimizer":
                fields_of(variant)  # makes one
            else:
                params = sample(**drawn)
                apply(variant, params, variant.init_state(params), params)
        except (FnoptError, TypeError, ValueError, AssertionError) as error:
            return f"does not take {name}={value!r}: {type(error).__name__}"
        return ""

    return where


def has_step(thing: Any, drawn: Drawn) -> str:
    """Only things with a step count in their state."""
    state = thing.init_state(sample(**drawn))
    return "" if any(name == "step" for name, _ in fields_of(state)) else "has no step in its state"


def nameless(_: Any, drawn: Drawn) -> str:
    """Only things to which the names of parameters mean nothing."""
    return "knows its parameters by name" if "names" in drawn else ""


def is_noiseless(thing: Any, _: Drawn) -> str:
    """Only things that draw no noise."""
    parts = [thing, *(part for _, part in fields_of(thing))]
    return "adds noise, by the names of parameters" if any(isinstance(part, AddNoise) for part in parts) else ""
