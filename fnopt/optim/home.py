"""Home: small parameters whose states lie in one buffer each, so that one update serves them all. Private.

Parameters stay where their module has them: they and their gradients are gathered for the update, and the new values
go back. What is remembered of them lives here, and each parameter's state holds views of it.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any, cast

import torch
from torch import Tensor

from .._torch import foreach_copy, split
from ..compile.layout import Piece, piece_of

SMALL = 1 << 15  # entries; above, gathering costs more than an update of its own


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
        self._shapes, self._kinds = _shapes(self.params), _kinds(self.params)
        self.memories = [self._moved(pieces, key) for key in memories]
        self.steps = self._clocks()
        self._clock = clock
        total = sum(param.numel() for param in params)
        self._held = list(self._values())
        self._param, self._grad = (torch.empty(total, dtype=params[0].dtype, device=params[0].device) for _ in "pg")
        self._params, self._grads = (_views(pieces, flat) for flat in (self._param, self._grad))

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
        return (
            all(map(is_, self._values(), self._held))
            and _shapes(self.params) == self._shapes
            and _kinds(self.params) == self._kinds
        )

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
        foreach_copy(self._params, self.params)
        foreach_copy(self._grads, grads)
        return [self._param, *self.memories, self._grad]

    def scatter(self) -> None:
        """The new parameters into their own memory, and the clocks one further."""
        foreach_copy(self.params, self._params)
        self._clock += 1
        if self.steps is not None:
            self.steps.add_(1)


_shape_of, _kind_of = attrgetter("shape"), attrgetter("dtype", "device")


def _shapes(params: list[Tensor]) -> list[torch.Size]:
    return list(map(_shape_of, params))


def _kinds(params: list[Tensor]) -> list[tuple[torch.dtype, torch.device]]:
    return list(map(_kind_of, params))


def _views(pieces: Sequence[Piece], buffer: Tensor) -> list[Tensor]:
    parts = split(buffer, [piece.count for piece in pieces])
    return [piece.view(part) for piece, part in zip(pieces, parts, strict=True)]
