"""What a Batch is made of, by name: for the messages that say which part of it is wrong."""

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor

from ._torch import tree_leaves


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
