"""Layout: the packable part of a state as a few flat buffers, one per (label, dtype, device). Private to `compiled`.

A rule of scope "element" or "global" cannot tell 76 parameters from their entries in one flat buffer, so it runs on the
buffer unchanged. A rule of scope "leaf" keeps its leaves; inside a `partition` that is decided label by label.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from ..errors import StructureError
from ..record import evolve
from ..rules.describe import HasInner, map_inner
from ..rules.partition import Freeze, Partition
from ..rules.sgd import SGD
from ..types import Tensors

Path = tuple[str, ...]


@attrs.frozen
class Piece:
    """One parameter in a buffer, after those before it; `order`: its dimensions, the outermost in memory first."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many entries."""
        return math.prod(self.shape)

    def flat(self, leaf: Tensor) -> Tensor:
        """The entries in the order of memory."""
        return (leaf if self._as_written() else leaf.permute(self.order)).reshape(-1)

    def view(self, entries: Tensor) -> Tensor:
        """The parameter in its own shape, as a view of its entries in the buffer."""
        if self._as_written():
            return entries.view(self.shape)
        inner = entries.view([self.shape[d] for d in self.order])
        return inner.permute([self.order.index(d) for d in range(len(self.order))])

    def _as_written(self) -> bool:
        return self.order == tuple(range(len(self.order)))


Pieces = dict[str, Piece]  # the parameters of one buffer, by name


@attrs.frozen
class Node:
    """A dict of a state: which keys are buffers, and the order of its own keys."""

    children: "dict[str, Node | Pieces | None]"  # None: anything that stays as it is
    keys: list[str]

    def pack(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The dict with buffers for what is packed: fresh memory."""
        return {key: _pack(child, key, tree) for key, child in self.children.items()}

    def unpack(self, packed: Mapping[str, Any]) -> dict[str, Any]:
        """The dict with the user's keys: views of the buffers."""
        shown: dict[str, Any] = {}
        for key, child in self.children.items():
            if isinstance(child, dict):
                parts = packed[key].split([piece.count for piece in child.values()])
                shown.update({n: piece.view(part) for (n, piece), part in zip(child.items(), parts, strict=True)})
            else:
                shown[key] = packed[key] if child is None else child.unpack(packed[key])
        return {key: shown[key] for key in self.keys}


def _pack(child: "Node | Pieces | None", key: str, tree: Mapping[str, Any]) -> Any:
    if isinstance(child, dict):
        return torch.cat([piece.flat(tree[name]) for name, piece in child.items()])
    return tree[key] if child is None else child.pack(tree[key])


@attrs.frozen
class Layout:
    """How the params of an optimizer, their gradients and its state are packed.

    names    parameter -> the key of its buffer, or its own name where it stays a leaf
    params   the dict of params, or of grads
    state    the optimizer's state; None where it has nothing packed
    """

    names: dict[str, str]
    params: Node
    state: Node | None

    def optimizer(self, optimizer: Any) -> Any:
        """The same rule for packed params: labels and frozen names become those of the buffers."""
        return _renamed(optimizer, self.names)


def layout_of(optimizer: Any, params: Tensors, state: Any) -> Layout:
    """The layout of these params and this state under `optimizer`. Nothing is copied yet.

    Raises StructureError where the state is not what this optimizer would make of packed params.
    """
    groups = _groups(optimizer, params)
    names = {name: name for name in params}
    names.update({name: key for key, pieces in groups.items() for name in pieces})
    packed: dict[str, Node | Pieces | None] = {key: groups.get(key) for key in names.values()}
    # what the rule remembers of packed params it says itself, on tensors without memory
    like = {
        key: params[key]
        if pieces is None
        else torch.empty(sum(piece.count for piece in cast(Pieces, pieces).values()), dtype=_first(pieces, params))
        for key, pieces in packed.items()
    }
    like = {key: leaf.to("meta") for key, leaf in like.items()}
    expected = _renamed(optimizer, names).init_state(like)
    return Layout(names, Node(packed, list(params)), _aligned(state, expected, groups, "opt_state"))


def plain_layout(params: Tensors) -> Layout:
    """The layout that packs nothing."""
    return Layout({name: name for name in params}, Node(dict.fromkeys(params), list(params)), None)


def _aligned(mine: Any, expected: Any, groups: Mapping[str, Pieces], where: str) -> Node | None:
    """The node of a state, by comparison with the state of packed params; None if nothing in it is packed."""
    if not isinstance(mine, dict) or not isinstance(expected, dict):
        return None
    tree, children = cast(dict[str, Any], mine), dict[str, Node | Pieces | None]()
    left = dict.fromkeys(tree)
    for key, value in cast(dict[str, Any], expected).items():
        if key in groups and key not in tree:
            if not _holds(tree, groups[key], value):
                raise StructureError(f"{where} does not hold what the optimizer remembers of {list(groups[key])[:5]}")
            children[key] = groups[key]
            for name in groups[key]:
                del left[name]
        elif key in left:
            children[key] = _aligned(tree[key], value, groups, f"{where}/{key}")
            del left[key]
    if left or len(children) != len(cast(dict[str, Any], expected)):
        raise StructureError(f"{where} has the keys {list(tree)[:5]}, expected {list(cast(Any, expected))[:5]}")
    return Node(children, list(tree)) if any(child is not None for child in children.values()) else None


def _holds(tree: Mapping[str, Any], pieces: Pieces, buffer: Any) -> bool:
    """Are the leaves of these pieces there, in one dtype, and is the buffer a flat one of that dtype?"""
    leaves = [tree.get(name) for name in pieces]
    return (
        isinstance(buffer, Tensor)
        and buffer.shape == (sum(piece.count for piece in pieces.values()),)
        and all(
            isinstance(leaf, Tensor) and leaf.dtype == buffer.dtype and tuple(leaf.shape) == piece.shape
            for leaf, piece in zip(leaves, pieces.values(), strict=True)
        )
    )


def _groups(optimizer: Any, params: Tensors) -> dict[str, Pieces]:
    """The parameters of each buffer, by its key."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for path, names in _packable(optimizer, list(params), (), True):
        for name in names:
            leaf = params[name]
            found.setdefault((path, str(leaf.dtype), str(leaf.device)), []).append(name)
    groups: dict[str, Pieces] = {}
    for (path, dtype, device), names in found.items():
        key = " ".join(["packed", "/".join(path), dtype, device])
        while key in params:
            key += "'"
        groups[key] = {name: piece_of(params[name]) for name in names}
    return groups


def _packable(optimizer: Any, names: list[str], path: Path, allowed: bool) -> Iterator[tuple[Path, list[str]]]:
    """The parameters that may be packed, in shares that different rules own."""
    allowed = allowed and _own_scope(optimizer) != "leaf"
    if not isinstance(optimizer, HasInner):
        if allowed:
            yield path, names
        return
    parts = optimizer.inner(names)
    if not isinstance(optimizer, Partition | Freeze) and [owned for *_, owned in parts] != [names]:
        return  # a stranger's way to divide parameters by name, which buffers would not have
    for place, (_, part, owned) in enumerate(parts):
        yield from _packable(part, owned, (*path, str(place)), allowed)
    if allowed and isinstance(optimizer, Freeze):
        live = set(parts[0][2])
        yield (*path, "frozen"), [name for name in names if name not in live]


def _own_scope(optimizer: Any) -> str:
    """The scope that a rule or wrapper would have if the optimizers inside it looked at each entry alone."""
    return getattr(map_inner(optimizer, _blind), "scope", "leaf")


def _blind(_: Any) -> SGD:
    return SGD()


def _renamed(optimizer: Any, names: Mapping[str, str]) -> Any:
    """The optimizer, where it knows parameters by name, for the names of buffers; `names` are those of its share."""
    if isinstance(optimizer, Partition):
        shares = {tag: {name: names[name] for name in owned} for tag, _, owned in optimizer.inner(names)}
        parts = {tag: _renamed(part, shares[tag]) for tag, part in optimizer.optimizers.items()}
        return evolve(optimizer, optimizers=parts, labels={names[name]: optimizer.labels[name] for name in names})
    if isinstance(optimizer, Freeze):
        ((_, part, live),) = optimizer.inner(names)
        frozen = dict.fromkeys(key for name, key in names.items() if name not in set(live))
        patterns = tuple(re.sub(r"([*?[])", r"[\1]", key) for key in frozen)
        return evolve(optimizer, optimizer=_renamed(part, {name: names[name] for name in live}), patterns=patterns)
    return map_inner(optimizer, partial(_renamed, names=names))


def piece_of(leaf: Tensor) -> Piece:
    """A parameter as a piece: its dimensions as they lie in memory, where it is dense; else as they are written."""
    written = tuple(range(leaf.ndim))
    order = tuple(sorted(written, key=lambda d: (-leaf.stride(d), d)))
    return Piece(tuple(leaf.shape), order if leaf.permute(order).is_contiguous() else written)


def _first(pieces: Any, params: Tensors) -> torch.dtype:
    return params[next(iter(pieces))].dtype
