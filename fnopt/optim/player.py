"""Player: applies an update rule to tensors in place, by its tape or its kernel. Private to the adapters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .kernel import Kernel
from .recorder import CannotTapeError, record
from .rule import KINDS, Rule
from .tape import Reading, Scratch, Tape

Numbers = list[Any]
Apply = Callable[[Sequence[Tensor]], None]

# torch's optimizers round each operation to half precision, where a pure rule computes in float32 and rounds once. Not
# compiled, a drop-in has torch's bits: the tape of float32, played on half precision, does torch's operations.
_HALF = (torch.bfloat16, torch.float16)
_TAPES: dict[tuple[Any, ...], Tape | None] = {}  # by kind, memories and dtypes: a tape knows no numbers
_KERNELS: dict[tuple[Any, ...], Kernel] = {}


class Player:
    """Updates rows of tensors: a parameter, what is remembered of it, and its gradient last."""

    def __init__(self, compiled: bool):
        self.compiled = compiled
        self._scratch = Scratch()

    def applier(self, rule: Rule, memories: Sequence[str], dtypes: Sequence[torch.dtype], clock: float) -> Apply | None:
        """How to update such rows at this clock; None where the rule is not of entries alone, one by one."""
        if len(set(dtypes)) == 1 and dtypes[0] in _HALF and not self.compiled:
            dtypes = [torch.float32] * len(dtypes)
        key = (rule.kind, tuple(memories), tuple(dtypes))
        numbers: Numbers = [*rule.numbers, int(clock)]
        if key not in _TAPES:
            try:
                _TAPES[key] = record(_formula(rule, memories), dtypes, numbers)
            except CannotTapeError:
                _TAPES[key] = None
        tape = _TAPES[key]
        if tape is None:
            return None
        if not self.compiled:
            return self._played(tape.at(numbers))
        if key not in _KERNELS:
            _KERNELS[key] = Kernel(tape)

        def eagerly(row: Sequence[Tensor]) -> None:
            self._played(tape.at(numbers))(row)

        return _KERNELS[key].at(numbers, eagerly)

    def _played(self, reading: Reading) -> Apply:
        return lambda row: reading.play(row, self._scratch)


def _formula(rule: Rule, memories: Sequence[str]) -> Callable[[list[Tensor], Numbers], list[Tensor]]:
    """The update of one row, as a function of tensors: new parameter and memories."""
    kind, skeleton = KINDS[rule.kind], rule.skeleton

    def formula(row: list[Tensor], numbers: Numbers) -> list[Tensor]:
        param, *held, grad = row
        tree = skeleton.tree({"step": numbers[-1]}, {"p": dict(zip(memories, held, strict=True))})
        new, after = kind.step(numbers[:-1]).update({"p": grad}, tree, {"p": param})
        _, members = skeleton.spread(after, ["p"])
        return [new["p"], *(members["p"][key] for key in memories)]

    return formula
