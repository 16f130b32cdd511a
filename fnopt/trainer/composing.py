"""From the arguments of a Trainer to the pure pieces: the one place where they are put together."""

from pathlib import Path
from typing import Any

import torch

from ..accumulate import accumulate
from ..callbacks import JsonlLog, Progress
from ..compile import compiled
from ..errors import EmptyDataError, HyperparameterError, UsageError
from ..grads import value_and_grad
from ..loss_scale import DynamicLossScale
from ..precision import autocast
from ..record import evolve
from ..schedules.plateaus import Plateau
from ..step import StepFn, make_step
from ..tensors import device_of
from .checks import check, moved
from .clocks import Clock
from .loaders import resumable
from .losses import classification_loss
from .optimizers import clipped, pure_of
from .parts import Parts
from .plan import length_of, tokens_of
from .precisions import DTYPES, Precision, chosen
from .ratios import observed
from .schedulers import scheduled


def compose(given: Any) -> Parts:
    """The pieces of a Trainer, from its arguments."""
    check(given)
    moved(given)
    micro = None if given.grad_accum_steps == 1 else given.grad_accum_steps
    data, note = resumable("train_loader", given.train_loader, micro, given.seed)
    held_out, note_too = None, ""
    if given.val_loader is not None:
        held_out, note_too = resumable("val_loader", given.val_loader, None, given.seed)
    epoch = length_of(data)
    updates, limit = _updates(given, epoch)
    device = device_of({"": next(given.model.parameters(), torch.empty(0))})
    precision = chosen(given.use_amp, given.precision, device)
    clock = Clock(given.scheduler_interval, updates, epoch, device)

    pure = pure_of(given.optimizer, given.model)
    pure, plateau, extra = scheduled(pure, given.scheduler, given.optimizer, clock)
    pure = clipped(pure, given.max_grad_norm)
    pure = observed(pure) if given.update_ratio else pure
    loss = classification_loss if given.loss is None else given.loss
    step = _step(given, loss, pure.optimizer, precision, getattr(data, "micro_batches", None) is not None)
    state = step.init_state(given.model, seed=given.seed)
    state = evolve(state, opt_state=pure.begun(state.params), extra=extra)
    told = "" if given.loss else "loss: cross-entropy of (x, integer labels), since no loss was given"
    notes = (f"precision: {precision}", told, _counts(given, plateau), note, note_too)
    return Parts(
        model=given.model,
        loss=loss,
        step=step,
        state=state,
        data=data,
        held_out=held_out,
        updates=updates,
        epoch=epoch,
        limit=limit,
        plateau=plateau,
        dtype=DTYPES.get(precision),
        notes=tuple(filter(None, notes)),
        reporters=_reporters(given, "tokens" if tokens_of(data) else "samples"),
        rules={"patience": given.patience, "on_nonfinite": given.on_nonfinite},
    )


def _step(given: Any, loss: Any, optimizer: Any, precision: Precision, accumulates: bool) -> StepFn[Any]:
    grad_fn = value_and_grad(given.model, loss)
    if precision in DTYPES:
        grad_fn = autocast(grad_fn, DTYPES[precision])
    if accumulates:
        grad_fn = accumulate(grad_fn)
    step = make_step(grad_fn, optimizer, loss_scale=DynamicLossScale() if precision == "fp16" else None)
    # at once: a resumed run must not compile at other steps than the uninterrupted one, for the sake of its last bits
    return compiled(step, at_once=True) if given.compile else step


def _reporters(given: Any, unit: str) -> tuple[Any, ...]:
    """The callbacks that a Trainer has by itself, unless it was given one of the kind."""
    own: list[Any] = []
    if given.progress and not any(isinstance(callback, Progress) for callback in given.callbacks):
        own.append(Progress(every=given.log_interval, unit=unit))
    if given.save_dir is not None and not any(isinstance(callback, JsonlLog) for callback in given.callbacks):
        own.append(JsonlLog(Path(given.save_dir) / "log.jsonl", every=given.log_interval))
    return tuple(own)


def _counts(given: Any, plateau: Plateau | None) -> str:
    """The clock of the scheduler, in words."""
    if given.scheduler is None:
        return ""
    if plateau is None:
        return f"scheduler: {type(given.scheduler).__name__} counts {given.scheduler_interval or 'update'}s"
    if given.val_loader is None:
        raise UsageError(
            f"Trainer: {type(given.scheduler).__name__} follows the validation loss, and there is no val_loader, "
            "expected one; give val_loader=, or a Schedule"
        )
    return f"scheduler: {type(given.scheduler).__name__} follows the validation loss, and may lower lr"


def _updates(given: Any, epoch: int | None) -> tuple[int, str]:
    """How many updates in all, and which argument says so."""
    if given.max_epochs is None and given.max_steps is None:
        raise HyperparameterError(
            "Trainer: neither max_epochs nor max_steps is given, expected one of them; max_steps counts updates"
        )
    if given.max_epochs is not None and epoch is None:
        raise HyperparameterError(
            f"Trainer: max_epochs={given.max_epochs}, and train_loader has no length, expected one; give max_steps, "
            "the number of updates"
        )
    if epoch == 0:
        raise EmptyDataError(
            "Trainer: train_loader makes 0 updates per epoch, expected at least one; is it empty, or less than a batch?"
        )
    steps = [] if given.max_steps is None else [(int(given.max_steps), f"max_steps={given.max_steps}")]
    if given.max_epochs is not None and epoch is not None:
        steps.append((given.max_epochs * epoch, f"max_epochs={given.max_epochs}"))
    return min(steps)
