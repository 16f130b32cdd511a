"""Kernel: a tape as one compiled loop over flat tensors of any length, for `compile=True`. Private.

One kernel serves every parameter and every model: the length is symbolic, and all numbers are inputs.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import compile_graph, trace
from ..compile.layout import piece_of
from ..errors import FallbackWarning
from .tape import Leaf, Number, Op, Tape


class Kernel:
    """The compiled form of a tape; made when it is first needed."""

    def __init__(self, tape: Tape):
        self._tape = tape
        self._numbers = list(dict.fromkeys(arg.at for op in tape.plain for arg in op.args if isinstance(arg, Number)))
        self._runs: dict[Any, Callable[..., Any] | None] = {}

    def at(self, numbers: Sequence[Any], otherwise: Callable[[Sequence[Tensor]], None]) -> Callable[..., None]:
        """The update with the numbers of this step; `otherwise` is for rows that lie in memory in different orders."""
        known = self._tape.known(numbers)
        values = [float(known[at]) for at in self._numbers]
        scalars: dict[torch.device, Tensor] = {}

        def apply(row: Sequence[Tensor]) -> None:
            flat = _flat(row)
            if flat is None:
                return otherwise(row)
            device = row[0].device
            if device not in scalars:
                scalars[device] = torch.tensor(values, dtype=self._precision(), device=device)
            run = self._run(flat, scalars[device])
            return otherwise(row) if run is None else run(*flat, scalars[device])

        return apply

    def _precision(self) -> torch.dtype:
        return torch.float64 if any(op.dtype == torch.float64 for op in self._tape.plain) else torch.float32

    def _run(self, flat: Sequence[Tensor], scalars: Tensor) -> Callable[..., Any] | None:
        key = scalars.device
        if key not in self._runs:
            self._runs[key] = self._compiled([*flat, scalars])
        return self._runs[key]

    def _compiled(self, inputs: Sequence[Tensor]) -> Callable[..., Any] | None:
        def fn(*leaves: Tensor) -> list[Tensor]:
            *row, scalars = leaves
            values: dict[int, Tensor] = dict(enumerate(row))
            numbers = {at: scalars[place] for place, at in enumerate(self._numbers)}
            for op in self._tape.plain:
                values[op.result] = _done(op, values, numbers)
            news = [_read(values[final]) if final < len(row) else values[final] for final in self._tape.finals]
            for old, new in zip(row, news, strict=False):
                old.copy_(new)
            return []

        try:
            graph, fakes = trace(fn, inputs, symbolic=len(inputs) - 1)
            return compile_graph(graph, fakes)
        except Exception as error:
            warnings.warn(
                f"compile=True: the update runs eagerly, because it did not compile: {str(error)[:300]}",
                FallbackWarning,
                stacklevel=2,
            )
            return None


def _read(old: Tensor) -> Tensor:
    """An old value that is another's new one, as a value of its own; of a clone Inductor thinks that it needs none."""
    return torch.where(torch.isnan(old), old, old)


def _done(op: Op, values: dict[int, Tensor], numbers: dict[int, Tensor]) -> Tensor:
    leaves = [values[arg.at] for arg in op.args if isinstance(arg, Leaf)]
    if op.fn is None:
        return leaves[0].to(op.dtype)

    def given(arg: Any) -> Any:
        if isinstance(arg, Leaf):
            return values[arg.at]
        return numbers[arg.at].to(leaves[0].dtype) if isinstance(arg, Number) else arg

    args, value = [given(arg) for arg in op.args], op.kwargs.get("value", 1)
    if op.fn is torch.lerp:  # no meta function of these three broadcasts over a symbolic length
        return args[0] + args[2] * (args[1] - args[0])
    if op.fn is torch.addcmul:
        return args[0] + args[1] * args[2] * value
    if op.fn is torch.addcdiv:
        return args[0] + args[1] / args[2] * value
    return op.fn(*args, **op.kwargs)


def _flat(row: Sequence[Tensor]) -> list[Tensor] | None:
    """The tensors as flat views, where they lie in memory in one order."""
    if all(leaf.is_contiguous() for leaf in row):
        return [leaf.view(-1) for leaf in row] if row[0].numel() > 1 else None
    piece = piece_of(row[0])
    if row[0].numel() < 2 or not all(leaf.permute(piece.order).is_contiguous() for leaf in row):
        return None
    return [leaf.permute(piece.order).view(-1) for leaf in row]
