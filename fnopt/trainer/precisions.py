"""Which precision a run has: `use_amp` asks for what the device is good at, `precision` says it."""

from typing import Literal, TypeAlias, get_args

import torch

from ..errors import HyperparameterError

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def chosen(use_amp: bool | None, precision: Precision | None, device: torch.device) -> Precision:
    """The precision of a run on this device.

    >>> chosen(True, None, torch.device("cpu")), chosen(None, None, torch.device("cpu"))
    ('bf16', 'fp32')

    Raises HyperparameterError for both where they are unequal, and for another name.
    """
    if precision is not None and precision not in get_args(Precision):
        raise HyperparameterError(f'Trainer: precision must be "fp32", "bf16" or "fp16", got {precision!r}')
    if use_amp not in (None, True, False):
        raise HyperparameterError(f"Trainer: use_amp must be True or False, got {use_amp!r}")
    asked = mixed(device) if use_amp else "fp32"
    if precision is None:
        return asked
    if use_amp is not None and asked != precision:
        raise HyperparameterError(
            f'Trainer: use_amp={use_amp} means "{asked}" on {device}, got precision="{precision}" as well; give one of '
            "them"
        )
    return precision


def mixed(device: torch.device) -> Precision:
    """bf16 where the device has it, else fp16, which needs a loss scale."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16"
    return "bf16"
