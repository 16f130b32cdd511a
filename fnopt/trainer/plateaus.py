"""A plateau in a run: its state lies in TrainState.extra, its value is the lr of the rules."""

from typing import Any

import torch
from torch import Tensor

from ..schedules.plateaus import Plateau
from ..types import Tensors
from .optimizers import rules_of, with_values

_PREFIX = "plateau/"  # of its state in TrainState.extra


def plateau_of(scheduler: Any) -> tuple[Plateau, dict[str, Tensor]]:
    """The plateau that a ReduceLROnPlateau is, with what it has seen, for one rate per group."""
    if isinstance(scheduler, Plateau):
        return scheduler, _prefixed(scheduler.init_state())
    rates = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
    fields = ("factor", "patience", "threshold", "threshold_mode", "mode", "cooldown", "eps")
    least = torch.tensor([float(rate) for rate in scheduler.min_lrs], dtype=torch.float64)
    plateau = Plateau(
        lr=torch.tensor(rates, dtype=torch.float64),
        min_lr=least,
        **{name: getattr(scheduler, name) for name in fields},
    )
    fresh = plateau.init_state()
    seen = {"best": scheduler.best, "bad": scheduler.num_bad_epochs, "out": scheduler.cooldown_counter}
    return plateau, _prefixed({**fresh, **{key: torch.full_like(fresh[key], value) for key, value in seen.items()}})


def plateau_rates(optimizer: Any, extra: Tensors) -> Any:
    """The optimizer with the rates that its plateau has now."""
    rates = [float(rate) for rate in extra[_PREFIX + "lr"].reshape(-1).unbind()]
    rules = rules_of(optimizer)
    return with_values(optimizer, [{"lr": rate} for rate in (rates * len(rules) if len(rates) == 1 else rates)])


def after_validation(plateau: Plateau, metric: float, extra: Tensors) -> dict[str, Tensor]:
    """What a plateau remembers after one more metric, beside the rest of `extra`."""
    held = {key.removeprefix(_PREFIX): value for key, value in extra.items() if key.startswith(_PREFIX)}
    return {**extra, **_prefixed(plateau.update(metric, held))}


def lowered(before: Tensors, after: Tensors) -> str:
    """What a validation has done to the rates, in words; nothing of most."""
    old, new = ([float(rate) for rate in extra[_PREFIX + "lr"].reshape(-1).unbind()] for extra in (before, after))
    return "" if old == new else f"lr {', '.join(f'{a:.3g} -> {b:.3g}' for a, b in zip(old, new, strict=True))}"


def _prefixed(state: Tensors) -> dict[str, Tensor]:
    return {_PREFIX + key: value for key, value in state.items()}
