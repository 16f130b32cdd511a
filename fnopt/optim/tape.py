"""A tape: what the formula of an elementwise rule does, played again in place on tensors of any size. Private.

A pure update makes new tensors; torch's optimizers write into the old ones, which costs a third less. So the formula is
run once on samples, and watched. Operations on hyperparameters and the clock alone are its prologue, done once a step;
those on leaves go on the tape, which does the very same operations to every parameter, writing over what nothing reads
any more. Same kernels, same order, same bits: there is one formula, and no second body of in-place code.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from .._torch import Watched, split

CHUNK = 1 << 20  # entries per pass: bounds the scratch memory to a few megabytes
_ALIASES = ("detach", "alias", "view")
_SAMPLE = 3  # entries of a leaf: more than one, so that it cannot be taken for a number


class CannotTapeError(Exception):
    """A formula that does more than operations on entries, one by one. Never leaves the adapter."""


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


def _cast(value: Any, *, dtype: torch.dtype, device: Any = None) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype)
    return float(value) if dtype.is_floating_point else int(value)


def _chosen(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


def _minus_from(a: Any, b: Any) -> Any:
    return b - a


# Arithmetic of the prologue, on Python's floats as on tensors: as torch's optimizers do it, in their precision.
_ARITHMETIC: Any = operator
_HOST: dict[str, Callable[..., Any]] = {
    "aten.add.Tensor": operator.add,
    "aten.sub.Tensor": operator.sub,
    "aten.mul.Tensor": operator.mul,
    "aten.div.Tensor": _ARITHMETIC.truediv,
    "aten.rsub.Scalar": _minus_from,
    "aten.rsub.Tensor": _minus_from,
    "aten.neg.default": operator.neg,
    "aten.pow.Tensor_Tensor": _ARITHMETIC.pow,
    "aten.pow.Tensor_Scalar": _ARITHMETIC.pow,
    "aten.pow.Scalar": _ARITHMETIC.pow,
    "aten.eq.Scalar": operator.eq,
    "aten.where.self": _chosen,
    "aten._to_copy.default": _cast,
}


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
        for target, place in self.tape.copies:
            inputs[target].copy_(slots[place])


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


class _Recorder:
    """Notes what is done to watched samples of leaves and numbers."""

    def __init__(self, leaves: Sequence[torch.dtype], numbers: Sequence[Tensor]):
        self.entries: dict[int, Leaf | Number] = {}  # by the id of the watched tensor
        self.kept: list[Tensor] = []  # an id belongs to one tensor as long as that lives
        self.ops: list[Op] = []
        self.prologue: list[Op] = []
        self.taken = max(len(leaves), len(numbers))
        self.leaves = [self.watch(torch.ones(_SAMPLE, dtype=dtype), Leaf(at)) for at, dtype in enumerate(leaves)]
        self.numbers = [self.watch(value, Number(at)) for at, value in enumerate(numbers)]

    def watch(self, value: Tensor, entry: Leaf | Number) -> Tensor:
        """A watched tensor for an entry of the tape."""
        watched = Watched.of(value, self.note)
        self.kept.append(watched)
        self.entries[id(watched)] = entry
        return watched

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Tensor:
        """One operation on watched tensors, which gave `out`."""
        name, entries = func.overloadpacket.__name__, [self.entry(arg) for arg in args]
        named = {key: self.entry(value) for key, value in kwargs.items()}
        if not isinstance(out, Tensor):
            raise CannotTapeError(f"{name} reads a value")
        number = self.taken + len(self.ops) + len(self.prologue)
        if not any(isinstance(entry, Leaf) for entry in (*entries, *named.values())):
            if name == "expand":  # a number, as a leaf of equal entries
                return self.watch(out, entries[0])
            if out.ndim:
                raise CannotTapeError(f"{name} makes a tensor of numbers")
            given = [entry if isinstance(entry, Number) else arg for entry, arg in zip(entries, args, strict=True)]
            self.prologue.append(Op(func, given, named, number, out.dtype, _HOST.get(str(func))))
            return self.watch(out, Number(number))
        if out.shape != (_SAMPLE,):
            raise CannotTapeError(f"{name} does not map leaves to leaves")
        if name in _ALIASES:
            return self.watch(out, entries[0])
        cast_only = name == "_to_copy" and kwargs.keys() == {"dtype"}
        if not cast_only and not (torch.Tag.pointwise in func.tags and hasattr(torch, name)):
            raise CannotTapeError(f"{name} is no operation on entries, one by one")
        self.ops.append(
            Op(None if cast_only else getattr(torch, name), entries, {} if cast_only else named, number, out.dtype)
        )
        return self.watch(out, Leaf(number))

    def entry(self, arg: Any) -> Any:
        """What stands for an argument on the tape."""
        if not isinstance(arg, Tensor):
            return arg
        if id(arg) in self.entries:
            return self.entries[id(arg)]
        if arg.numel() != 1:
            raise CannotTapeError("a constant of the formula is no single number")
        return arg.item()


def record(
    update: Callable[[list[Tensor], list[Tensor]], list[Tensor]],
    dtypes: Sequence[torch.dtype],
    numbers: Sequence[Any],
) -> Tape:
    """The tape of `update(leaves, numbers)`, which gives new values of the first leaves, in their order.

    Raises CannotTapeError where that is not a row of operations on entries, one by one.
    """
    recorder = _Recorder(dtypes, [as_number(number) for number in numbers])
    with torch.no_grad():
        results = update(recorder.leaves, recorder.numbers)
    finals = [recorder.entries.get(id(leaf)) for leaf in results]
    if not all(isinstance(final, Leaf) for final in finals):
        raise CannotTapeError("a new value does not come from the old ones")
    places = [cast(Leaf, final).at for final in finals]
    plain = [Op(op.fn, list(op.args), dict(op.kwargs), op.result, op.dtype) for op in recorder.ops]
    return _allotted(Tape(recorder.prologue, plain, places, _contracted(recorder.ops), [], [], []), list(dtypes))


def _contracted(ops: list[Op]) -> list[Op]:
    """The same values by fewer operations: torch scales inside these three, with the same single rounding.

    addcmul(a, b c, d) is a + c b d; addcdiv(a, b c, d) is a + c b / d; addcmul(a, c, b), c one number, is a + c b.
    """
    uses: dict[int, int] = {}
    for op in ops:
        for number in op.reads():
            uses[number] = uses.get(number, 0) + 1
    made = {op.result: op for op in ops}
    gone: set[int] = set()
    for op in ops:
        if op.fn is torch.addcmul and not isinstance(op.args[1], Leaf):
            op.fn, op.args, op.kwargs = torch.add, [op.args[0], op.args[2]], {"alpha": op.args[1]}
        elif op.fn in (torch.addcmul, torch.addcdiv) and "value" not in op.kwargs:
            scaled = made.get(op.args[1].at) if isinstance(op.args[1], Leaf) else None
            if scaled and scaled.fn is torch.mul and uses[scaled.result] == 1 and not isinstance(scaled.args[1], Leaf):
                op.args[1], op.kwargs = scaled.args[0], {"value": scaled.args[1]}
                gone.add(scaled.result)
    return [op for op in ops if op.result not in gone]


def _allotted(tape: Tape, dtypes: list[torch.dtype]) -> Tape:
    """The tape with places for all results: an input that is read no more and ends overwritten anyway, else scratch."""
    ops, finals = tape.ops, tape.finals
    last = {number: place for place, op in enumerate(ops) for number in op.reads()}
    last.update(dict.fromkeys(finals, len(ops)))
    free = [place for place in range(len(finals)) if last.get(place, -1) < 0]
    place_of: dict[int, int] = {number: number for number in range(len(dtypes))}
    scratch: list[torch.dtype] = []
    kinds = dict(enumerate(dtypes))
    places: list[int] = []
    for at, op in enumerate(ops):
        for number in dict.fromkeys(op.reads()):
            place = place_of[number]
            if last[number] == at and place < len(finals):
                free.append(place)
        wanted = finals.index(op.result) if op.result in finals else -1
        fitting = [place for place in free if kinds[place] == op.dtype]
        if wanted in fitting:
            place = wanted
        elif fitting and op.result not in finals:
            place = fitting[-1]
        else:
            place = -1 - len(scratch)
            scratch.append(op.dtype)
            kinds[place] = op.dtype
        if place in free:
            free.remove(place)
        place_of[op.result] = place
        places.append(place)
    copies = [(target, place_of[number]) for target, number in enumerate(finals) if place_of[number] != target]
    return attrs.evolve(tape, places=places, scratch=scratch, copies=copies)
