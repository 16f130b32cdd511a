"""Skeleton: an optimizer's state, taken apart by parameter, and put together again. Private to the adapters.

A pure state is one tree with dicts by parameter in it; torch keeps one flat dict for each parameter. The keys of that
dict are the paths of the tree, joined by dots: `exp_avg`, or `optimizer.exp_avg` inside a wrapper. What a state holds
once, such as the clock, each parameter holds for itself, because each can miss a step.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import attrs
from torch import Tensor

Member = dict[str, Tensor]  # what is remembered of one parameter, by path


@attrs.frozen
class Skeleton:
    """The paths of a state: of its dicts by parameter, and of the tensors that it holds once."""

    empty: Any
    memories: tuple[str, ...]
    shared: tuple[str, ...]

    @classmethod
    def of(cls, optimizer: Any) -> "Skeleton":
        """That of the state which this optimizer makes: of no parameters, its dicts by parameter are the empty ones."""
        empty = optimizer.init_state({})
        leaves = dict(_walk(empty, ""))
        return cls(
            empty,
            tuple(path for path, leaf in leaves.items() if isinstance(leaf, dict)),
            tuple(path for path, leaf in leaves.items() if not isinstance(leaf, dict)),
        )

    def tree(self, shared: Mapping[str, Tensor], members: Mapping[str, Mapping[str, Tensor]]) -> Any:
        """The state of these parameters."""

        def build(node: Any, path: str) -> Any:
            if isinstance(node, dict) and node:
                return {key: build(value, _join(path, key)) for key, value in cast(dict[str, Any], node).items()}
            if isinstance(node, dict):
                return {name: member[path] for name, member in members.items() if path in member}
            return shared[path]

        return build(self.empty, "")

    def spread(self, tree: Any, names: list[str]) -> tuple[Member, dict[str, Member]]:
        """What a state holds once, and what it holds of each parameter."""
        shared, members = Member(), {name: Member() for name in names}
        for path in self.shared:
            shared[path] = _follow(tree, path)
        for path in self.memories:
            for name, leaf in _follow(tree, path).items():
                members[name][path] = leaf
        return shared, members


def _walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in cast(dict[str, Any], node).items():
            yield from _walk(value, _join(path, key))
    else:
        yield path, node


def _follow(tree: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        tree = tree[key]
    return tree


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
