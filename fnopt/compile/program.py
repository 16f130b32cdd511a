"""A Program: a function of lists of tensors, traced and compiled once, which may write into its inputs. Private."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import attrs
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .._torch import compile_graph, fake_like, memory_of, trace
from ..randomness import noted_seeds

Leaves = list[Tensor]


class CannotCompileError(Exception):
    """A trace that would not do what eager does; the message says why. Never leaves `compiled`."""


@attrs.frozen
class Result:
    """What a function to compile returns.

    writes    pairs (input, its new value), written when all values are there
    outputs   what is returned
    """

    writes: list[tuple[Tensor, Tensor]]
    outputs: Leaves


@attrs.frozen
class Program:
    """Kernels for inputs of one set of shapes.

    kernels    takes the inputs and `constants`, returns the outputs that are not inputs themselves
    outputs    of each output, the input that it is, or None
    constants  the tensors that the function closed over: read at every call, as in eager
    random     must the generators be seeded?
    """

    kernels: Callable[..., Any]
    outputs: list[int | None]
    constants: Leaves
    random: bool

    def __call__(self, inputs: Leaves) -> Leaves:
        """The outputs; the inputs that are donated are written."""
        fresh = self.kernels(*inputs, *self.constants)
        if None not in self.outputs:
            return [inputs[cast(int, place)] for place in self.outputs]
        left = iter(fresh)
        return [next(left) if place is None else inputs[place] for place in self.outputs]


def make_program(
    fn: Callable[[Leaves], Result],
    inputs: Leaves,
    seed: int,
    members: int = 1,
    elsewhere: Callable[[Leaves], Result] | None = None,
) -> Program:
    """Trace and compile `fn`.

    seed        what its random operations, if any, must be seeded with at this very call
    members     how many numbers a scalar is: each member of an ensemble has its own
    elsewhere   `fn` at another position and seed, which must give the same graph
    """
    outputs: list[int | None] = []
    with noted_seeds() as seeds:
        graph, fakes = trace(_flat(fn, outputs), inputs)
    if elsewhere is not None and trace(_flat(elsewhere, []), inputs)[0].code != graph.code:
        raise CannotCompileError("the step computes with state.position or state.seed, which a graph has for constant")
    random = any(_is_random(node) for node in graph.graph.nodes)
    if random and seeds not in ([], [seed]):
        raise CannotCompileError(
            "random numbers are drawn under several seeds in one graph, which has one (as sam and chunks of "
            "per_example_clip do on a model with dropout)"
        )
    constants = _lift_constants(graph)
    fakes += [fake_like(leaf, fakes) for leaf in constants]
    realise_scalars(graph, members)
    return Program(compile_graph(graph, fakes), outputs, constants, random and bool(seeds))


def _flat(fn: Callable[[Leaves], Result], outputs: list[int | None]) -> Callable[..., Leaves]:
    """`fn` with its writes done, returning what is no input; `outputs` is filled with the inputs that are."""

    def flat(*leaves: Tensor) -> Leaves:
        result = fn(list(leaves))
        places = {id(leaf): place for place, leaf in enumerate(leaves)}
        outputs[:] = [places.get(id(leaf)) for leaf in result.outputs]
        write(result)
        return [leaf for leaf, place in zip(result.outputs, outputs, strict=True) if place is None]

    return flat


def write(result: Result) -> None:
    """The new values into their inputs; a value that lies in the memory of an input is copied first."""
    written = {memory_of(old) for old, _ in result.writes}
    values = [new.clone() if memory_of(new) in written else new for _, new in result.writes]
    for (old, _), new in zip(result.writes, values, strict=True):
        old.copy_(new)


def apart(outputs: Iterable[Tensor], inputs: Iterable[Tensor]) -> Leaves:
    """The outputs, each in memory of its own: none is an input or a view of one."""
    taken = {memory_of(leaf) for leaf in inputs}
    return [leaf.clone() if memory_of(leaf) in taken else leaf for leaf in outputs]


def looks(leaf: Any) -> tuple[Any, ...]:
    """All of a tensor but its values."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return (type(cast(object, leaf)),)


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _lift_constants(graph: GraphModule) -> Leaves:
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


def realise_scalars(graph: GraphModule, members: int = 1) -> None:
    """Have every small value that meets a large tensor computed once, before the loop over that tensor.

    Inductor would inline 0-d arithmetic (a bias correction: `pow` in float64) into the loop, once per vector of
    entries. A view of it is a fact that the compiler cannot inline. Small is one number, or one for each member.
    """
    for node in list(graph.graph.nodes):
        value = _value(node)
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
    value = _value(node)
    return value is not None and 0 < value.numel() <= members


def _is_whole(value: Tensor) -> bool:
    """Is this all of its memory, in order? A view that begins elsewhere in it would be read from the beginning."""
    size = value.untyped_storage().nbytes()
    return value.is_contiguous() and not value.storage_offset() and size == value.numel() * value.element_size()


def _meets_large(node: Node, members: int) -> bool:
    """Does a large tensor take part where this value, or a small view of it, is used?"""
    memory = memory_of(cast(Tensor, _value(node)))
    for user in node.users:
        value = _value(user)
        if value is None:
            continue
        if not _is_small(user, members) or (memory_of(value) == memory and _meets_large(user, members)):
            return True
    return False


def _value(node: Node) -> Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None
