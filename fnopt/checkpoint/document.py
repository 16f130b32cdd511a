"""The JSON document of a checkpoint: all that is not bytes of tensors. Later schemas only add to it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import attrs
import torch
from torch import Tensor

from ..errors import CheckpointVersionError, UnsafeCheckpointError, UsageError
from ..state import TrainState
from .container import unwritten
from .environment import environment, version
from .migrate import SCHEMA, is_known, migrate

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

DEEPEST = 64


@attrs.frozen
class Document:
    """What a checkpoint says about itself.

    tree         the names of its tensors in the order of the state; one that ends in "/" is an empty dict
    strides      of the tensors that are not row-major in memory
    complex      the names of tensors that are stored as pairs (real, imaginary)
    position     of the state, as is `seed`; `updates` is there to be read without the tensors
    environment  what wrote it, and on what
    info         the user's
    metric       what a CheckpointManager ranks it by, or None
    serial       which save of a CheckpointManager's folder this was; 0 outside of one
    schema       the one it was written in; what is written is always of the newest
    """

    tree: list[str]
    strides: dict[str, list[int]]
    complex: list[str]
    position: int
    seed: int
    updates: Any
    environment: dict[str, Any]
    info: dict[str, Any]
    metric: float | None = None
    serial: int = 0
    schema: int = SCHEMA

    def encode(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII."""
        return json.dumps(attrs.asdict(self, recurse=False), sort_keys=True, separators=(",", ":"))


def describe(
    state: TrainState,
    leaves: Mapping[str, Tensor | None],
    info: Mapping[str, JSON] | None,
    metric: float | None = None,
    serial: int = 0,
) -> Document:
    """The document of a state, whose tensors by name are `leaves`."""
    tensors = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    return Document(
        tree=list(leaves),
        strides={name: kept for name, leaf in tensors.items() if (kept := _stride(leaf)) != row_major(leaf.shape)},
        complex=[name for name, leaf in tensors.items() if leaf.dtype.is_complex],
        position=_integer("position", state.position),
        seed=_integer("seed", state.seed),
        updates=plain("updates", cast(Any, state.updates).tolist()),
        environment=environment(state),
        info=cast(dict[str, Any], plain("info", {} if info is None else info)),
        metric=metric,
        serial=serial,
    )


def parse(path: str, text: str) -> Document:
    """The document in a header, of any schema so far; CheckpointVersionError for a newer one, CheckpointCorruptError
    for nonsense.
    """
    try:
        fields = cast(dict[str, Any], json.loads(text))
        schema = fields["schema"]
        if not is_known(schema):
            raise _newer(path, schema, cast(dict[str, Any], fields["environment"])["fnopt"])
        fields = {**migrate(fields), "schema": schema}
        document = Document(**{field.name: fields[field.name] for field in attrs.fields(Document)})
        if not (
            _all(str, document.tree)
            and _all(str, document.complex)
            and _all(list, list(document.strides.values()))
            and all(_all(int, stride) for stride in document.strides.values())
            and _all(int, [document.position, document.seed, document.serial])
            and (document.metric is None or _all(float, [document.metric]))
            and _all(dict, [document.environment, document.info])
        ):
            raise TypeError("a field of another type")
        return document
    except CheckpointVersionError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise unwritten(path, "document", "a document") from None


def plain(where: str, value: Any, depth: int = 0) -> Any:
    """A JSON value as dicts, lists and scalars (a tuple becomes a list); UsageError that names what is none.

    >>> plain("info", {"betas": (0.9, 0.999)})
    {'betas': [0.9, 0.999]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if depth < DEEPEST and isinstance(value, list | tuple):
        return [plain(f"{where}[{i}]", item, depth + 1) for i, item in enumerate(cast(Sequence[Any], value))]
    if depth < DEEPEST and isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        if wrong := [key for key, _ in items if not isinstance(key, str)]:
            raise UsageError(f"{where} has the key {wrong[0]!r}, expected strings only; use {str(wrong[0])!r}")
        return {key: plain(f"{where}[{key!r}]", item, depth + 1) for key, item in items}
    got = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
    hint = "use None or a string" if isinstance(value, int | float) else "convert it with .item(), .tolist() or str()"
    raise UsageError(f"{where} is {got}, which JSON cannot hold; {hint}")


def row_major(shape: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor of this shape."""
    return list(torch.empty(tuple(shape), device="meta").stride())


def check_strides(path: str, name: str, shape: Sequence[int], stride: Sequence[int]) -> None:
    """Strides are a permutation of row-major ones; else UnsafeCheckpointError, before anything is allocated by them."""
    expected = 1
    dense = len(stride) == len(shape) and all(0 <= step < 1 << 63 for step in stride)
    if dense and math.prod(shape):
        for step, length in sorted(zip(stride, shape, strict=True)):
            dense = dense and (length == 1 or step == expected)
            expected *= length
    if not dense:
        hint = "save a copy: tensor.contiguous()"
        raise UnsafeCheckpointError(
            f"{path} gives {name} of shape {list(shape)} the strides {list(stride)}, which leave gaps or overlap; "
            f"{hint}",
            path=path,
            item=name,
            expected="one entry of memory for each of the tensor",
            found=str(list(stride)),
            hint=hint,
        )


def _stride(leaf: Tensor) -> list[int]:
    """The strides that a copy has: the tensor's own where it is dense; a view with gaps or overlaps is packed."""
    return list(torch.empty_like(leaf, device="meta").stride())


def _integer(field: str, value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
        raise UsageError(f"save_checkpoint: {field} is {value!r}, expected an int of 64 bits; use evolve(state, …)")
    return value


def _all(kind: type, values: list[Any]) -> bool:
    return type(values) is list and all(type(value) is kind for value in values)


def _newer(path: str, schema: Any, writer: str) -> CheckpointVersionError:
    return CheckpointVersionError(
        f"{path} was made by fnopt {writer} with schema {schema}; this is fnopt {version()}, which reads schemas up "
        f"to {SCHEMA}; upgrade fnopt",
        path=path,
        item="schema",
        expected=f"1 to {SCHEMA}",
        found=str(schema),
        hint="upgrade fnopt",
    )
