"""A Program: a function of lists of tensors, traced and compiled once, which may write into its inputs. Private."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import attrs
import torch
from torch import Tensor
from torch.fx import Node

from .._torch import compile_graph, fake_like, memory_of, trace
from ..randomness import noted_seeds
from .passes import gather_many, lift_constants, pack_first, realise_scalars, share_equal

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
    constants = lift_constants(graph)
    fakes += [fake_like(leaf, fakes) for leaf in constants]
    share_equal(graph)
    pack_first(graph)
    gather_many(graph)
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
