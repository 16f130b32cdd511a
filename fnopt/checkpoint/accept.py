"""Tensors on their way from a file into a state: what is looked for in their values, whatever the file is."""

import math

import attrs
import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..state import TrainState
from .mismatch import check_clocks
from .names import rebuild


@attrs.define
class Accepted:
    """The tensors of a file, one after another, and what is wrong with their values."""

    path: str
    values: dict[str, Tensor] = attrs.field(factory=dict[str, Tensor])
    nonfinite: list[str] = attrs.field(factory=list[str])
    negative: dict[str, int] = attrs.field(factory=dict[str, int])

    def take(self, name: str, value: Tensor, device: torch.device) -> None:
        """One more tensor, which belongs on this device."""
        if name.startswith(("params/", "opt_state")) and not _finite(value):
            self.nonfinite.append(name)
        if _is_clock(name, value) and value.numel() and (lowest := int(value.min())) < 0:
            self.negative[name] = lowest
        self.values[name] = value.to(device)

    def state(self, like: TrainState, position: int, seed: int, allow_nonfinite: bool) -> TrainState:
        """The state of these tensors; StateMismatchError for a clock below 0, NonFiniteError for a diverged run."""
        check_clocks(self.path, self.negative)
        if self.nonfinite and not allow_nonfinite:
            raise NonFiniteError(
                f"{self.path} is of a run that diverged: {len(self.nonfinite)} tensors hold a nan or an infinity: "
                f"{', '.join(self.nonfinite[:5])}; load an older one, or pass allow_nonfinite=True"
            )
        return rebuild(like, self.values, position, seed)


def _finite(tensor: Tensor) -> bool:
    """Is every entry finite? Without a temporary of the tensor's size, but for 8-bit floats."""
    real = torch.view_as_real(tensor) if tensor.dtype.is_complex else tensor
    if not real.dtype.is_floating_point or not real.numel():
        return True
    lowest, highest = torch.aminmax(real.float() if real.dtype.itemsize == 1 else real)
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def _is_clock(name: str, tensor: Tensor) -> bool:
    signed = not (tensor.dtype.is_floating_point or tensor.dtype.is_complex) and tensor.dtype.is_signed
    return signed and (name == "updates" or (name.startswith("opt_state/") and name.endswith("/step")))
