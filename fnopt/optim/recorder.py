"""Recorder: writes a tape, by running a formula once on samples that tell what is done to them. Private."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from .._torch import Watched
from .tape import Leaf, Number, Op, Tape, as_number

_ALIASES = ("detach", "alias", "view")
_SAMPLE = 3  # entries of a leaf: more than one, so that it cannot be taken for a number


class CannotTapeError(Exception):
    """A formula that does more than operations on entries, one by one. Never leaves the adapter."""


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
