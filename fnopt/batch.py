"""What a Batch is made of, by name: so that the error of a loss can say which part of the batch is to blame.

Nothing is checked while all goes well: a loss may cast what it gets, and a check would cost more than a small step.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor

from ._torch import tree_leaves
from .errors import BatchError

Form = dict[str, str]  # what each leaf of a batch is


def leaves_of(batch: Any, name: str = "batch") -> Iterator[tuple[str, Any]]:
    """Every leaf of a batch with the expression that reads it.

    >>> [name for name, _ in leaves_of({"x": 1, "pair": (2, [3])})]
    ["batch['x']", "batch['pair'][0]", "batch['pair'][1][0]"]
    """
    kind = cast(Any, type(batch))
    if issubclass(kind, dict):
        for key, item in cast(dict[Any, Any], batch).items():
            yield from leaves_of(item, f"{name}[{key!r}]")
    elif hasattr(kind, "_fields"):
        for field in kind._fields:
            yield from leaves_of(getattr(batch, field), f"{name}.{field}")
    elif issubclass(kind, tuple | list):
        for place, item in enumerate(batch):
            yield from leaves_of(item, f"{name}[{place}]")
    else:  # a node that somebody registered is a leaf if it is none of these
        leaves = tree_leaves(batch)
        if len(leaves) == 1 and leaves[0] is batch:
            yield name, batch
        else:
            yield from ((f"leaf {place} of {name}", leaf) for place, leaf in enumerate(leaves))


def tensors_of(batch: Any) -> dict[str, Tensor]:
    """The tensors among the leaves."""
    return {name: leaf for name, leaf in leaves_of(batch) if isinstance(leaf, Tensor)}


def blame_leaf(error: RuntimeError, batch: Any, params: Mapping[str, Tensor]) -> None:
    """Raise BatchError if a leaf is on another device than params, or of another floating dtype."""
    devices, dtypes = {leaf.device for leaf in params.values()}, {leaf.dtype for leaf in params.values()}
    for name, leaf in tensors_of(batch).items() if params and type(error) is RuntimeError else ():
        if leaf.device not in devices or (leaf.dtype.is_floating_point and leaf.dtype not in dtypes):
            raise BatchError(
                f"loss: {name} is {leaf.dtype} on {leaf.device}, expected {_several(dtypes)} on {_several(devices)} as "
                f"params are; convert it in the dataset or the loss (torch says: {_first_line(error)})"
            ) from error


def form_of(batch: Any) -> Form:
    """What the leaves of a Batch are; of a list of micro-batches, those of the first."""
    part = next(_parts(batch, "batch"), ("batch", None))[1]
    return {name: _kind(leaf) for name, leaf in leaves_of(part)}


def blame_structure(error: Exception, batch: Any, first: Form) -> None:
    """Raise BatchError if a batch, or micro-batch, is not like the first one of the run."""
    for path, part in _parts(batch, "batch"):
        here = {name: _kind(leaf) for name, leaf in leaves_of(part)}
        for name in [*first, *here]:
            if here.get(name) != first.get(name):
                raise BatchError(
                    f"run: {path}{name.removeprefix('batch')} is {here.get(name, 'missing')}, expected "
                    f"{first.get(name, 'nothing there')} as in the first batch of this run; look at the dataset and "
                    f"collate ({type(error).__name__}: {_first_line(error)})"
                ) from error


def _parts(batch: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The micro-batches of a list; else the batch alone."""
    if isinstance(batch, list):
        for place, part in enumerate(cast(list[Any], batch)):
            yield from _parts(part, f"{path}[{place}]")
    else:
        yield path, batch


def _kind(leaf: Any) -> str:
    return (
        f"a {leaf.dtype} tensor of {leaf.ndim} dimensions" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
    )


def _several(things: set[Any]) -> str:
    return " or ".join(sorted(map(str, things)))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
