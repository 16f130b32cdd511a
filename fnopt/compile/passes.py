"""What is changed in a graph before it becomes kernels: what Inductor does not see by itself. Private."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .._torch import common_subexpressions, gather, memory_of

aten = torch.ops.aten
MANY = 128  # parts of one pack
Leaves = list[Tensor]
VIEWS = (aten.view.default, aten.permute.default, aten.reshape.default, aten._unsafe_view.default)
ENTRYWISE = (aten.mul.Tensor, aten.div.Tensor, aten.where.self, aten._to_copy.default)


def lift_constants(graph: GraphModule) -> Leaves:
    """Make inputs of the tensors that the function closed over, after all others."""
    held: dict[str, Node] = {}
    values: Leaves = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        name = cast(str, node.target)
        if name not in held:
            with graph.graph.inserting_after(last):
                last = held[name] = graph.graph.placeholder(f"closed_over_{len(held)}")
            last.meta = dict(node.meta)
            values.append(cast(Tensor, getattr(graph, name)).detach())  # a teacher's parameter, say
        node.replace_all_uses_with(held[name])
        graph.graph.erase_node(node)
    graph.recompile()
    return values


def share_equal(graph: GraphModule) -> None:
    """Compute once what is computed twice, and nothing that nobody uses."""
    graph.graph = common_subexpressions(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def pack_first(graph: GraphModule) -> None:
    """Where parts are multiplied (divided, cast, selected) by one number each and then packed, pack first.

    A gradient of 76 parameters is unscaled part by part, and then lies in one buffer: one loop over the buffer gives
    the same bits as 76 loops, in less time, of the compiler too.
    """
    for node in list(graph.graph.nodes):
        while node.target is aten.cat.default and (common := _common(cast(Sequence[Node], node.args[0]))):
            node = _swapped(graph, node, *common)  # noqa: PLW2901  (what was a pack is now an operation on a pack)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def gather_many(graph: GraphModule) -> None:
    """Leave packs of very many parts to one call: a kernel with a loop for each would compile for minutes."""
    for node in graph.graph.nodes:
        if node.target is aten.cat.default and len(cast(Sequence[Node], node.args[0])) > MANY and len(node.args) == 1:
            node.target = gather()
    graph.recompile()


Part = tuple[Node, list[Node]]  # an operation, and the views of it, first to last


def _common(packed: Sequence[Node]) -> tuple[list[Part], int] | None:
    """The parts of a pack and the place of the argument in which they differ, if they are one operation otherwise."""
    parts = [_part(node) for node in packed]
    first = parts[0][0]
    if len(parts) < 2 or first.target not in ENTRYWISE:
        return None
    place = 1 if first.target is aten.where.self else 0
    for op, _ in parts:
        alike = op.target is first.target and op.kwargs == first.kwargs and len(op.args) == len(first.args)
        if not alike or not _is_entrywise(op, place) or _dtypes(op, place) != _dtypes(first, place):
            return None
        if any(a is not b for at, (a, b) in enumerate(zip(op.args, first.args, strict=True)) if at != place):
            return None
    return parts, place


def _part(node: Node) -> Part:
    views: list[Node] = []
    while node.target in VIEWS or node.target is aten.clone.default:  # a reshape clones where it must
        views = views if node.target is aten.clone.default else [node, *views]
        node = cast(Node, node.args[0])
    return node, views


def _is_entrywise(op: Node, place: int) -> bool:
    """Does the operation meet each entry of its argument with numbers alone?"""
    mine, others = op.args[place], [arg for at, arg in enumerate(op.args) if at != place]
    shaped = isinstance(mine, Node) and _value(mine).shape == _value(op).shape
    plain = not op.kwargs.keys() - {"dtype"}
    return shaped and plain and all(not isinstance(arg, Node) or not _value(arg).ndim for arg in others)


def _dtypes(op: Node, place: int) -> tuple[torch.dtype, torch.dtype]:
    return _value(op).dtype, _value(cast(Node, op.args[place])).dtype


def _swapped(graph: GraphModule, pack: Node, parts: list[Part], place: int) -> Node:
    """The new pack, of what the operation was applied to; the old one gives way to the operation on it."""
    first = parts[0][0]
    with graph.graph.inserting_before(pack):
        inner = [_viewed(graph, cast(Node, op.args[place]), views) for op, views in parts]
        before = _call(graph, aten.cat.default, (inner, *pack.args[1:]), pack.kwargs)
        args = tuple(before if at == place else arg for at, arg in enumerate(first.args))
        after = _call(graph, first.target, args, first.kwargs)
    pack.replace_all_uses_with(after)
    return before


def _viewed(graph: GraphModule, node: Node, views: list[Node]) -> Node:
    """The same views of another tensor of the same shape, which may lie in memory otherwise."""
    for view in views:
        same = aten.reshape.default if view.target is not aten.permute.default else view.target
        node = _call(graph, same, (node, *view.args[1:]), {})
    return node


def _call(graph: GraphModule, target: Any, args: tuple[Any, ...], kwargs: Any) -> Node:
    node = graph.graph.call_function(target, args, kwargs)
    values = map_arg(args, _value)
    fake = next(leaf for leaf in _tensors(values))
    with fake.fake_mode:
        node.meta = {"val": target(*values, **kwargs)}
    return node


def _tensors(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def realise_scalars(graph: GraphModule, members: int = 1) -> None:
    """Have every small value that meets a large tensor computed once, before the loop over that tensor.

    Inductor would inline 0-d arithmetic (a bias correction: `pow` in float64) into the loop, once per vector of
    entries. A view of it is a fact that the compiler cannot inline. Small is one number, or one for each member.
    """
    for node in list(graph.graph.nodes):
        value = _seen(node)
        if node.op != "call_function" or value is None or not _is_small(node, members) or not _is_whole(value):
            continue
        if not _meets_large(node, members):
            continue
        with graph.graph.inserting_after(node):
            arguments = (node, list(value.shape), list(value.stride()), 0)
            realised = graph.graph.call_function(torch.ops.aten.as_strided.default, arguments)
            realised.meta = dict(node.meta)
        for user in list(node.users):
            if user is not realised:
                user.replace_input_with(node, realised)
    graph.graph.lint()
    graph.recompile()


def _is_small(node: Node, members: int) -> bool:
    value = _seen(node)
    return value is not None and 0 < value.numel() <= members


def _is_whole(value: Tensor) -> bool:
    """Is this all of its memory, in order? A view that begins elsewhere in it would be read from the beginning."""
    size = value.untyped_storage().nbytes()
    return value.is_contiguous() and not value.storage_offset() and size == value.numel() * value.element_size()


def _meets_large(node: Node, members: int) -> bool:
    """Does a large tensor take part where this value, or a small view of it, is used?"""
    memory = memory_of(cast(Tensor, _seen(node)))
    for user in node.users:
        value = _seen(user)
        if value is None:
            continue
        if not _is_small(user, members) or (memory_of(value) == memory and _meets_large(user, members)):
            return True
    return False


def _seen(node: Node) -> Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def _value(node: Node) -> Any:
    """The fake tensor that stands for it."""
    return node.meta["val"]
