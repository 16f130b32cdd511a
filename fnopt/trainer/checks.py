"""Arguments of a Trainer that are wrong by themselves, or would be without effect: each has its sentence."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch

from ..errors import HyperparameterError, UsageError
from ..samples import check_count

OWN = ("callbacks", "marks", "override", "steps_per_epoch", "weights")  # of the Trainer, in the info of a checkpoint


def check(given: Any) -> None:
    """Refuse them, before anything is made."""
    _check_kinds(given)
    _check_numbers(given)
    _check_effects(given)


def _check_kinds(given: Any) -> None:
    if not isinstance(given.model, torch.nn.Module):
        raise UsageError(
            f"Trainer: model is a {_kind(given.model)}, expected a torch.nn.Module; for a dict of params use "
            "make_step and run"
        )
    if not isinstance(given.callbacks, list | tuple):
        raise UsageError(f"Trainer: callbacks is {given.callbacks!r}, expected a list of them; write [callback]")
    info, validation = cast(object, given.info), cast(object, given.val_loader)
    if not isinstance(info, Mapping):
        raise UsageError(f"Trainer: info is a {_kind(given.info)}, expected a dict of what JSON can hold")
    taken = [name for name in OWN if name in info]
    if taken:
        raise HyperparameterError(f"Trainer: info has {taken}, which the Trainer writes itself; choose other names")
    if isinstance(validation, Iterator):
        raise UsageError(
            f"Trainer: val_loader is a {_kind(given.val_loader)}, which can be read once only, expected a "
            "DataLoader, fnopt.Batches or a list of batches; write list(val_loader)"
        )


def _kind(value: Any) -> str:
    return type(value).__name__


def _check_numbers(given: Any) -> None:
    for name in ("max_epochs", "max_steps", "eval_interval", "save_interval"):
        if getattr(given, name) is not None:
            check_count("Trainer", name, getattr(given, name), least=1)
    for name in ("grad_accum_steps", "log_interval", "keep", "patience"):
        check_count("Trainer", name, getattr(given, name), least=1)
    for name in ("compile", "deterministic", "progress", "update_ratio"):
        if not isinstance(getattr(given, name), bool):
            raise HyperparameterError(f"Trainer: {name} must be True or False, got {getattr(given, name)!r}")
    for name, choices in (("mode", ("min", "max")), ("on_nonfinite", ("raise", "rollback"))):
        if getattr(given, name) not in choices:
            raise HyperparameterError(
                f'Trainer: {name} must be "{choices[0]}" or "{choices[1]}", got {getattr(given, name)!r}'
            )


def _check_effects(given: Any) -> None:
    """What would be silently without effect."""
    if given.scheduler is None and given.scheduler_interval is not None:
        raise HyperparameterError(
            f"Trainer: scheduler_interval={given.scheduler_interval!r} without a scheduler, expected both; a Schedule "
            "that is the optimizer's lr counts updates"
        )
    if given.save_dir is None and given.save_interval is not None:
        raise UsageError(f"Trainer: save_interval={given.save_interval} without a save_dir, expected both")
    if given.val_loader is not None:
        return
    if given.monitor != "loss":
        raise UsageError(f"Trainer: monitor={given.monitor!r} without a val_loader, expected both; nothing is measured")
    for callback in given.callbacks:
        if hasattr(callback, "on_validate") and not hasattr(callback, "on_update") and not hasattr(callback, "on_save"):
            raise UsageError(
                f"Trainer: {type(callback).__name__} is told of validations only, and there is no val_loader, "
                "expected one; give val_loader="
            )


def moved(given: Any) -> None:
    """Move the model to the device, if one is named."""
    if given.device is None:
        return
    try:
        given.model.to(given.device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(
            f"Trainer: device={str(given.device)!r} cannot be had ({why}), expected one of this machine; leave it out "
            "for that of the model"
        ) from None
