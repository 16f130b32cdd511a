"""Kernel: the traced update of one row of tensors, for `compile=True`. Private to the adapters."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class Kernel:
    """Compiled programs of one formula, by the layout of the row."""

    def __init__(self, formula: Callable[..., list[Tensor]]):
        self._formula = formula

    def at(self, numbers: Sequence[Any]) -> Callable[[Sequence[Tensor]], None]:
        """The update with the numbers of this step."""
        raise NotImplementedError
