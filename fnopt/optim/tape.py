"""A tape: what the formula of an elementwise rule does, played again in place on tensors of any size. Private.

A pure update makes new tensors; torch's optimizers write into the old ones, which costs a third less. So the formula is
run once on samples, and watched. Operations on hyperparameters and the clock alone are its prologue, done once a step;
those on leaves go on the tape, which does the very same operations to every parameter, writing over what nothing reads
any more. Same kernels, same order, same bits: there is one formula, and no second body of in-place code.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from .._torch import split

CHUNK = 1 << 20  # entries per pass: bounds the scratch memory to a few megabytes


@attrs.frozen
class Leaf:
    """A tensor on the tape, by its number; the first ones are the inputs."""

    at: int


@attrs.frozen
class Number:
    """A result of the prologue; the first ones are the hyperparameters and the clock."""

    at: int


@attrs.define
class Op:
    """One operation: `fn(*args, **kwargs)` is the leaf or number `result`, of this dtype.

    Without `fn` it is a change of dtype. `host` is the same on Python's numbers, where there is such a thing.
    """

    fn: Callable[..., Tensor] | None
    args: list[Any]
    kwargs: dict[str, Any]
    result: int
    dtype: torch.dtype
    host: Callable[..., Any] | None = None

    def reads(self) -> list[int]:
        """The leaves that it needs."""
        return [arg.at for arg in self.args if isinstance(arg, Leaf)]


@attrs.frozen
class Tape:
    """What to do to inputs, and where its results lie.

    prologue  operations on numbers
    plain     operations on leaves as the formula has them, and of each input the leaf that is its new value
    ops       operations on leaves, and of each the place of its result: the input that it overwrites, or, counted from
              the end, one of the scratch tensors of these dtypes
    copies    pairs (input, place) where a result does not yet lie in its input
    """

    prologue: list[Op]
    plain: list[Op]
    finals: list[int]
    ops: list[Op]
    places: list[int]
    scratch: list[torch.dtype]
    copies: list[tuple[int, int]]

    @property
    def casts(self) -> bool:
        """Does the formula change dtypes?"""
        return any(op.fn is None for op in self.ops)

    def at(self, numbers: Sequence[Any]) -> "Reading":
        """The tape with the numbers of this step in it: floats, ints, and 0-d tensors where the user gave them."""
        known = self.known(numbers)

        def read(arg: Any) -> Any:
            return _read(known[arg.at] if isinstance(arg, Number) else arg)

        ops = [
            Op(op.fn, [read(arg) for arg in op.args], {k: read(v) for k, v in op.kwargs.items()}, op.result, op.dtype)
            for op in self.ops
        ]
        return Reading(ops, self)

    def known(self, numbers: Sequence[Any]) -> dict[int, Any]:
        """All results of the prologue."""
        known, host = dict[int, Any](enumerate(numbers)), all(op.host for op in self.prologue)
        if not host:
            known = {at: as_number(number) for at, number in known.items()}
        for op in self.prologue:
            args = [known[arg.at] if isinstance(arg, Number) else _read(arg) if host else arg for arg in op.args]
            fn: Any = op.host if host else op.fn
            known[op.result] = fn(*args, **op.kwargs)
        return known


def _read(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def as_number(number: Any) -> Tensor:
    """A hyperparameter or a clock as a 0-d tensor: float64 or int64."""
    if isinstance(number, Tensor):
        return number.double()
    return torch.tensor(number, dtype=torch.int64 if isinstance(number, int) else torch.float64)


@attrs.frozen
class Reading:
    """A tape with its numbers, ready to be played on any number of parameters."""

    ops: list[Op]
    tape: Tape

    def play(self, inputs: Sequence[Tensor], memory: "Scratch") -> None:
        """The update, in place: inputs that have a new value hold it."""
        for part in _chunks(inputs):
            self._pass(part, memory)

    def _pass(self, inputs: Sequence[Tensor], memory: "Scratch") -> None:
        narrow = inputs[0].dtype if inputs[0].dtype.itemsize < 4 and not self.tape.casts else None
        scratch = [memory.like(inputs[0], narrow or dtype, place) for place, dtype in enumerate(self.tape.scratch)]
        slots = [*inputs, *reversed(scratch)]
        leaves = dict(enumerate(inputs))
        for op, place in zip(self.ops, self.tape.places, strict=True):
            args = [leaves[arg.at] if isinstance(arg, Leaf) else arg for arg in op.args]
            out = leaves[op.result] = slots[place]
            if op.fn is None:
                out.copy_(args[0])
            else:
                op.fn(*args, **op.kwargs, out=out)
        # a new value that is an old one of another input is read before that is written
        news = [slots[place].clone() if place >= 0 else slots[place] for _, place in self.tape.copies]
        for (target, _), new in zip(self.tape.copies, news, strict=True):
            inputs[target].copy_(new)


class Scratch:
    """Tensors to compute in, kept between steps: fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._flat: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}

    def like(self, leaf: Tensor, dtype: torch.dtype, place: int) -> Tensor:
        """The scratch tensor of that place, laid out as the leaf."""
        if not leaf.is_contiguous() or leaf.numel() > CHUNK:
            return torch.empty_like(leaf, dtype=dtype)
        key = (leaf.device, dtype, place)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < leaf.numel():
            flat = self._flat[key] = torch.empty(leaf.numel(), dtype=dtype, device=leaf.device)
        return flat[: leaf.numel()].view(leaf.shape)


def _chunks(inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    if inputs[0].numel() <= CHUNK or not all(leaf.is_contiguous() for leaf in inputs):
        return [inputs]
    return list(zip(*(split(leaf.view(-1), CHUNK) for leaf in inputs), strict=True))
