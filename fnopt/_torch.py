"""The one file that touches torch's private names; each entry says why, and tests/test_torch_names.py what is missing.

- `torch.utils._pytree`: torch 2.13 has no public pytree module, and `torch.func` and `make_fx` use this one.
- `torch.linalg.vector_norm` is public, but has no type.
- `torch._C._functorch.maybe_current_level`: whether a functorch transform (grad, vmap, jvp) is running. Inside one,
  `torch.autograd.grad` would not see the transform's graph; outside one, `torch.func.vjp` costs twice as much.
- `Tensor._version`: how often a tensor was written in place, which tells a loss that is not pure.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree


def register_pytree(cls: type, flatten: Callable[[Any], tuple[list[Any], Any]], rebuild: Callable[..., Any]) -> None:
    """Make `cls` a pytree node: `flatten(x) -> (children, context)`, `rebuild(children, context) -> x`."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    _pytree.register_pytree_node(cls, flatten, rebuild, serialized_type_name=name)


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`fn` on every leaf of a pytree; `others` must have its structure."""
    return _pytree.tree_map(fn, tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a pytree, in its order."""
    return _pytree.tree_leaves(tree)


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a pytree and its structure, which compares with `==`."""
    return _pytree.tree_flatten(tree)


def tree_unflatten(leaves: Sequence[Any], structure: Any) -> Any:
    """The pytree of that structure with these leaves."""
    return _pytree.tree_unflatten(leaves, structure)


def inside_transform() -> bool:
    """Is a functorch transform (grad, vmap, jvp, …) running right now?"""
    return torch._C._functorch.maybe_current_level() is not None


def version(tensor: torch.Tensor) -> int:
    """How often the memory of a tensor was written in place; 0 for an inference tensor, which does not count."""
    return 0 if tensor.is_inference() else tensor._version


def vector_norm(
    x: torch.Tensor, dtype: torch.dtype | None = None, dim: int | tuple[int, ...] | None = None
) -> torch.Tensor:
    """The Euclidean norm, real: of all entries, 0-d, or along `dim`, which stays; `dtype` is what is computed in."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=dim is not None, dtype=dtype)
