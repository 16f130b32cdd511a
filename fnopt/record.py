"""`@record`: an attrs frozen class that is also a pytree.

Float and tensor fields (and what holds them: tuples, dicts, other records) are leaves; ints, bools, strings, functions
and modules are structure. So a record prints itself, pickles, compares, `evolve` makes a variant of it, and `vmap`,
`grad` and a compiled step take its numbers as inputs.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast, dataclass_transform

import attrs
import torch
from torch import Tensor

from ._torch import register_pytree
from .errors import HyperparameterError
from .types import Hyper

T = TypeVar("T")
Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]

evolve = attrs.evolve
_CHILDREN = "_children"  # of a record that holds placeholders: the fields that are leaves all the same


def hyper(*, default: Any = attrs.NOTHING, check: Check | None = None, kw_only: bool = False) -> Any:
    """A field that holds one numeric hyperparameter, or a tuple of them: a float, a tensor or a Schedule each.

    `check` sees floats only: the values of tensors are never read (that would be a host sync, and fails in a trace).
    """
    validators: list[Any] = [_is_hyper] if check is None else [_is_hyper, _each(check)]
    return attrs.field(default=default, converter=_as_float, validator=validators, kw_only=kw_only)


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field, hyper))
def record(cls: type[T]) -> type[T]:
    """Make `cls` an immutable record of its annotated fields and a pytree node.

    A field with `metadata={"static": True}` is structure, also where it holds floats.

    >>> @record
    ... class Scale:
    ...     factor: float
    ...     name: str = "scale"
    >>> scale = Scale(2.0)
    >>> scale, evolve(scale, factor=3.0) == Scale(3.0)
    (Scale(factor=2.0, name='scale'), True)
    >>> torch.utils._pytree.tree_leaves(scale)          # the float is a leaf, the name is structure
    [2.0]
    """
    setattr(cls, "__eq__", _equal)  # noqa: B010  (assigning a method by attribute is refused by the type checker)
    setattr(cls, "__hash__", _hash)  # noqa: B010
    made = attrs.frozen(eq=False, slots=False)(cls)
    fields = tuple((field.name, bool(field.metadata.get("static"))) for field in attrs.fields(cast(Any, made)))

    def flatten(value: Any) -> tuple[list[Any], Any]:
        held = [(name, getattr(value, name), static) for name, static in fields]
        known: tuple[str, ...] | None = value.__dict__.get(_CHILDREN)
        if known is None:
            known = tuple(name for name, item, static in held if not static and is_tree(item))
        fixed = tuple((name, item) for name, item, _ in held if name not in known)
        return [item for name, item, _ in held if name in known], (known, fixed)

    def rebuild(children: Iterable[Any], context: Any) -> Any:
        # not through __init__: validators must not see the placeholders that tree functions put in
        value, names = object.__new__(made), context[0]
        for name, item in (*zip(names, children, strict=True), *context[1]):
            object.__setattr__(value, name, item)
        if not all(is_tree(getattr(value, name)) for name in names):
            # placeholders: their values no longer tell leaves from structure
            object.__setattr__(value, _CHILDREN, names)
        return value

    register_pytree(made, flatten, rebuild)
    if any(field.converter is _as_float for field in attrs.fields(cast(Any, made))):
        _explain(made)
    return made


def _explain(made: Any) -> None:
    """`AdamW(model.parameters(), lr=…)` gives lr twice, which Python says in words that help nobody."""
    init = made.__init__

    @wraps(init)
    def explained(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            init(self, *arguments, **named)
        except TypeError:
            if arguments:
                _is_no_params(made.__name__, attrs.fields(made)[0].name, arguments[0])
            raise

    made.__init__ = explained


def is_tree(value: Any) -> bool:
    """Does a field's value hold leaves (floats, tensors, records), or is it structure?"""
    if isinstance(value, float | Tensor):
        return True
    if isinstance(value, tuple | list):
        return any(is_tree(item) for item in cast(Iterable[Any], value))
    if isinstance(value, dict):
        return not value or any(is_tree(item) for item in cast(dict[str, Any], value).values())
    return is_record(value)


def is_record(value: Any) -> bool:
    """Is this an instance of a class that `@record` made?"""
    return getattr(cast(object, value).__class__, "__hash__", None) is _hash


def same(a: Any, b: Any) -> bool:
    """Equality that can be asked of tensors: the same type, dtype, device, shape and values."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.device == b.device and a.shape == b.shape and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(cast(Any, a)) == len(b) and all(same(x, y) for x, y in zip(cast(Any, a), b, strict=True))
    if isinstance(a, Mapping):
        mine = cast(Mapping[str, Any], a)
        return mine.keys() == b.keys() and all(same(mine[key], b[key]) for key in mine)
    return bool(a == b)


def _values(value: Any) -> list[Any]:
    return [getattr(value, field.name) for field in attrs.fields(value.__class__)]


def _equal(self: Any, other: Any) -> bool:
    if type(self) is not type(other):
        return NotImplemented
    return all(same(a, b) for a, b in zip(_values(self), _values(other), strict=True))


def _hash(self: Any) -> int:
    return hash((type(self).__qualname__, *(_hashable(value) for value in _values(self))))


def _hashable(value: Any) -> Any:
    if isinstance(value, Tensor):
        raise TypeError(
            "a record that holds tensors is unhashable: tensors compare by value, and their values can change"
        )
    if isinstance(value, dict):
        return tuple(sorted((key, _hashable(item)) for key, item in cast(dict[str, Any], value).items()))
    if isinstance(value, tuple | list):
        return tuple(_hashable(item) for item in cast(Iterable[Any], value))
    return value


# Validators: (instance, attribute, value) -> None, as attrs calls them.


def non_negative(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """value >= 0 and finite."""
    if not 0.0 <= value < float("inf"):
        _refuse(instance, attribute, value, "must be finite and >= 0")


def positive(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """value > 0 and finite."""
    if not 0.0 < value < float("inf"):
        _refuse(instance, attribute, value, "must be finite and > 0")


def below_one(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """0 <= value < 1: the rate of a moving average."""
    if not 0.0 <= value < 1.0:
        _refuse(instance, attribute, value, "must be in [0, 1)")


def finite(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """Any number but nan and the infinities."""
    if not abs(value) < float("inf"):
        _refuse(instance, attribute, value, "must be finite")


def non_positive(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """value <= 0 and finite."""
    if not float("-inf") < value <= 0.0:
        _refuse(instance, attribute, value, "must be finite and <= 0")


def at_least_one(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """value >= 1 and finite."""
    if not 1.0 <= value < float("inf"):
        _refuse(instance, attribute, value, "must be finite and >= 1")


def count(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    """An int >= 1, for a field that is structure."""
    if type(value) is not int or value < 1:
        _refuse(instance, attribute, value, "must be an int >= 1")


def at_most_one(instance: Any, attribute: "attrs.Attribute[Any]", value: float) -> None:
    """0 <= value <= 1."""
    if not 0.0 <= value <= 1.0:
        _refuse(instance, attribute, value, "must be in [0, 1]")


def _refuse(instance: Any, attribute: "attrs.Attribute[Any]", value: Any, expected: str) -> None:
    owner, name = type(instance).__name__, attribute.name
    raise HyperparameterError(f"{owner}: {name} {expected}, got {value!r}")


def _as_float(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_as_float(item) for item in cast(tuple[Any, ...], value))
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_hyper(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    owner, name = type(instance).__name__, attribute.name
    default = cast(Any, attribute.default)
    if isinstance(default, tuple):
        wanted = len(cast(tuple[Any, ...], default))
        if not isinstance(value, tuple) or len(cast(tuple[Any, ...], value)) != wanted:
            raise HyperparameterError(f"{owner}: {name} must be a tuple of {wanted} numbers, got {value!r}")
        for item in cast(tuple[Any, ...], value):
            _is_number(owner, name, item)
    else:
        _is_number(owner, name, value)


def _is_no_params(owner: str, name: str, value: Any) -> None:
    if isinstance(value, torch.nn.Module) or (isinstance(value, Iterable) and not isinstance(value, Tensor | str)):
        got = type(cast(object, value)).__name__
        raise HyperparameterError(
            f"{owner}: {name} must be a number, got a {got}; pure {owner} takes hyperparameters and no parameters: "
            f"for {owner}(model.parameters(), …) use fnopt.optim.{owner}"
        )


def _is_number(owner: str, name: str, value: Any) -> None:
    _is_no_params(owner, name, value)
    if isinstance(value, Tensor):
        if not value.dtype.is_floating_point or value.ndim > 1:
            raise HyperparameterError(
                f"{owner}: a tensor for {name} must be floating point and 0-d (or [K], one value per member of an "
                f"ensemble), got {value.dtype} of shape {list(value.shape)}"
            )
    elif not isinstance(value, float) and not callable(value):
        raise HyperparameterError(f"{owner}: {name} must be a float, a tensor or a Schedule, got {value!r}")


def _each(check: Check) -> Check:
    def checked(instance: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        for item in cast(tuple[Hyper, ...], value) if isinstance(value, tuple) else (cast(Hyper, value),):
            if isinstance(item, float):
                check(instance, attribute, item)

    return checked
