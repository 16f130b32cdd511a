"""Home: small parameters whose states lie in one buffer each, so that one update serves them all. Private.

Parameters stay where their module has them: they and their gradients are gathered for the update, and the new values
go back. What is remembered of them lives here, and each parameter's state holds views of it.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor

from .._torch import foreach_copy, split
from ..compile.layout import Piece, piece_of

SMALL = 1 << 15  # entries; above, gathering costs more than an update of its own


class Buffer:
    """A flat tensor that pieces are gathered into."""

    def __init__(self, pieces: Sequence[Piece], flat: Tensor):
        self.flat, self.views = flat, _views(pieces, flat)
        self._runs: list[tuple[int, int, Tensor | None]] = []
        begin, at = 0, 0
        for shape, run in groupby(pieces, key=_rows):
            length = list(run)
            end, after = begin + len(length), at + sum(piece.count for piece in length)
            joined = None if shape is None else flat[at:after].view(-1, *shape)
            self._runs.append((begin, end, joined))
            begin, at = end, after

    def gather(self, tensors: Sequence[Tensor]) -> None:
        """One tensor for each piece; those in a row that differ in their first dimension only, by one call."""
        for begin, end, joined in self._runs:
            if joined is None:
                foreach_copy(self.views[begin:end], tensors[begin:end])
            else:
                torch.cat(list(tensors[begin:end]), out=joined)


def _rows(piece: Piece) -> tuple[int, ...] | None:
    """What pieces that can be joined along their first dimension have in common; None where that is not their order."""
    joinable = piece.count and piece.shape and piece.order == tuple(range(len(piece.shape)))
    return piece.shape[1:] if joinable else None


class Home:
    """Parameters of one dtype and device, with the same memories.

    params    in the order of the buffers
    states    their dicts in the optimizer's state, which hold views of `memories` and of `steps`
    steps     the clocks, one per parameter; None where no state holds them (`clock` is the first value then)
    """

    def __init__(
        self, params: Sequence[Tensor], states: Sequence[dict[str, Any]], memories: Sequence[str], clock: float
    ):
        self.params, self.states, self.keys = list(params), list(states), tuple(memories)
        pieces = [piece_of(param) for param in params]
        self._looks, self._places = _looks(self.params), list(map(Tensor.data_ptr, self.params))
        self.memories = [self._moved(pieces, key) for key in memories]
        self.steps = self._clocks()
        self._clock = clock
        total = sum(param.numel() for param in params)
        self._held, self._own = list(self._values()), self._tensors()
        self._param, self._grad = (Buffer(pieces, params[0].new_empty(total)) for _ in "pg")

    def _moved(self, pieces: Sequence[Piece], key: str) -> Tensor:
        buffer = torch.cat([piece.flat(state[key]) for piece, state in zip(pieces, self.states, strict=True)])
        for state, view in zip(self.states, _views(pieces, buffer), strict=True):
            state[key] = view
        return buffer

    def _clocks(self) -> Tensor | None:
        if "step" not in self.states[0]:
            return None
        steps = torch.stack([state["step"] for state in self.states])
        for place, state in enumerate(self.states):
            state["step"] = steps[place]
        return steps

    def intact(self) -> bool:
        """Do the states still hold the views, and are the parameters of the same kind?"""
        return (all(map(is_, self._values(), self._held)) or self._still_held()) and (
            list(map(Tensor.data_ptr, self.params)) == self._places or self._moved_apart()
        )

    def _moved_apart(self) -> bool:
        """Do the parameters lie in other memory now, but are as they were otherwise?"""
        if _looks(self.params) != self._looks or overlapping(self.params):
            return False
        self._places = list(map(Tensor.data_ptr, self.params))
        return True

    def adopt(self, states: Sequence[dict[str, Any] | None]) -> bool:
        """Take these dicts for the states, if they hold the same views; a client may have copied them."""
        if None in states:
            return False
        self.states = [state for state in states if state is not None]
        return self.intact()

    def _still_held(self) -> bool:
        views = self._tensors()
        if len(views) != len(self._own) or not all(map(is_, views, self._own)):
            return False
        self._held = list(self._values())  # what else a client keeps there has changed
        return True

    def _tensors(self) -> list[Any]:
        keys = self.keys if self.steps is None else ("step", *self.keys)
        return [state.get(key) for state in self.states for key in keys]

    def _values(self) -> Iterator[Any]:
        return chain.from_iterable(state.values() for state in self.states)

    def clock(self) -> float | None:
        """How many updates the parameters had, where all had as many."""
        if self.steps is None:
            return self._clock
        clocks = cast(list[float], cast(Any, self.steps).tolist())
        return clocks[0] if clocks.count(clocks[0]) == len(clocks) else None

    def gather(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The buffers to update: parameters, memories, and gradients last."""
        self._param.gather(self.params)
        self._grad.gather(grads)
        return [self._param.flat, *self.memories, self._grad.flat]

    def scatter(self) -> None:
        """The new parameters into their own memory, and the clocks one further."""
        foreach_copy(self.params, self._param.views)
        self._clock += 1
        if self.steps is not None:
            self.steps.add_(1)


Look = tuple[torch.Size, torch.dtype, torch.device]


def _looks(params: list[Tensor]) -> list[Look]:
    return [(p.shape, p.dtype, p.device) for p in params]


def overlapping(params: Sequence[Tensor]) -> list[int]:
    """The places of parameters that share memory with another, as tied ones do: their updates follow each other."""
    spans: list[tuple[int, int, int]] = []
    for place, param in enumerate(params):
        if param.numel() and type(param) in (Tensor, torch.nn.Parameter):
            extent = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True)) + 1
            spans.append((param.data_ptr(), param.data_ptr() + extent * param.itemsize, place))
    spans.sort()
    found: set[int] = set()
    end, holder = 0, -1
    for begin, stop, place in spans:
        if begin < end:
            found |= {holder, place}
        if stop > end:
            end, holder = stop, place
    return sorted(found)


def _views(pieces: Sequence[Piece], buffer: Tensor) -> list[Tensor]:
    parts = split(buffer, [piece.count for piece in pieces])
    return [piece.view(part) for piece, part in zip(pieces, parts, strict=True)]
