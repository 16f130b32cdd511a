"""`plateau`: a value that falls when a metric has stopped improving.

Its state is a dict of tensors. Kept in `TrainState.extra` it is saved and resumed with the run (beside other things
there, give its keys a prefix); the value becomes a leaf of the optimizer, so a compiled step is not compiled again.

>>> plan = plateau(lr=0.5, factor=0.1, patience=1)
>>> grad_fn = fnopt.value_and_grad(lambda params, x: (((params["w"] - x) ** 2).sum(), 1))
>>> step, rates = fnopt.make_step(grad_fn, fnopt.SGD()), []
>>> state = fnopt.evolve(step.init_state({"w": torch.zeros(1)}), extra=plan.init_state())
>>> for validation_loss in [1.0, 0.9, 0.9, 0.9, 0.9]:
...     step = fnopt.evolve(step, optimizer=fnopt.evolve(step.optimizer, lr=plan.value(state.extra)))
...     state, metrics = step.step(state, torch.ones(1))                                # an epoch
...     state = fnopt.evolve(state, extra=plan.update(validation_loss, state.extra))
...     rates.append(round(metrics["lr"].item(), 4))
>>> rates
[0.5, 0.5, 0.5, 0.5, 0.05]
"""

from typing import Literal

import attrs
import torch
from torch import Tensor

from ..errors import HyperparameterError, StructureError
from ..record import below_one, hyper, non_negative, record
from ..tensors import as_tensor, precise
from ..types import Tensors
from .checks import at_least, one_of

metrics = at_least(0, "it is a number of metrics")


@record
class Plateau:
    """`lr`, multiplied by `factor` (down to `min_lr`) when one metric more than `patience` in a row was not better.

        better: metric < best (1 - threshold)   ("rel")   or   metric < best - threshold   ("abs")      mode "min"
                metric > best (1 + threshold)   ("rel")   or   metric > best + threshold   ("abs")      mode "max"

    >>> plan = plateau(lr=1.0, factor=0.5, patience=1)
    >>> state = plan.init_state()
    >>> for accuracy_lost in [0.9, 0.8, 0.8, torch.nan, 0.7]:
    ...     state = plan.update(accuracy_lost, state)
    >>> plan.value(state), int(state["bad"])
    (tensor(0.5000, dtype=torch.float64), 0)

    No Schedule: it depends on what was seen, not on the clock. After a fall, `cooldown` metrics do not count as bad.
    A nan is never better. A fall by `eps` or less is left out. Tensors of shape [K] make K of them, each by its own
    metric.

    Law: the value never rises, and never falls below the smaller of `lr` and `min_lr`.
    Equals torch's ReduceLROnPlateau, to the bit. Raises HyperparameterError for numbers out of range, other names,
    and a Schedule (there is no clock to ask it by).
    """

    lr: float | Tensor = hyper(check=non_negative)
    factor: float | Tensor = hyper(default=0.1, check=below_one)
    patience: int = attrs.field(default=10, validator=metrics)
    threshold: float | Tensor = hyper(default=1e-4, check=non_negative)
    threshold_mode: Literal["rel", "abs"] = attrs.field(default="rel", validator=one_of("rel", "abs"))
    mode: Literal["min", "max"] = attrs.field(default="min", validator=one_of("min", "max"))
    cooldown: int = attrs.field(default=0, validator=metrics)
    min_lr: float | Tensor = hyper(default=0.0, check=non_negative)
    eps: float | Tensor = hyper(default=1e-8, check=non_negative)

    def __attrs_post_init__(self) -> None:
        for name, value in self._numbers().items():
            if callable(value):
                raise HyperparameterError(f"Plateau: {name} must be a float or a tensor, got a Schedule: {value!r}")

    def init_state(self) -> dict[str, Tensor]:
        """Nothing seen yet: the value `lr`, the `best` metric, and how many were `bad` or are to be left `out`."""
        device = next((value.device for value in self._numbers().values() if isinstance(value, Tensor)), None)
        like = torch.zeros((), device=device)
        numbers = [as_tensor(value, like.to(precise(like.device))) for value in self._numbers().values()]
        lr = numbers[0].expand(max((number.shape for number in numbers), key=len)).clone()
        best = torch.full_like(lr, torch.inf if self.mode == "min" else -torch.inf)
        return {"lr": lr, "best": best, **{key: torch.zeros_like(lr, dtype=torch.int64) for key in ("bad", "out")}}

    def update(self, metric: Tensor | float, state: Tensors) -> dict[str, Tensor]:
        """The state after one more metric."""
        lr, best, bad, out = state["lr"], state["best"], state["bad"], state["out"]
        metric = torch.as_tensor(metric, dtype=best.dtype, device=best.device).detach()
        if metric.ndim and metric.shape != best.shape:
            raise StructureError(
                f"plateau: the metric has shape {list(metric.shape)}, expected {list(best.shape)}; give one "
                "number (or an lr of that shape, to have one plateau each)"
            )
        better = self._better(metric, best)
        resting = out > 0
        bad = torch.where(better | resting, 0, bad + 1)
        falls = bad > self.patience
        lowered = torch.maximum(lr * as_tensor(self.factor, lr), as_tensor(self.min_lr, lr))
        return {
            "lr": torch.where(falls & (lr - lowered > as_tensor(self.eps, lr)), lowered, lr),
            "best": torch.where(better, metric, best),
            "bad": torch.where(falls, 0, bad),
            "out": torch.where(falls, self.cooldown, out - resting.to(out)),
        }

    def value(self, state: Tensors) -> Tensor:
        """The value now: give it to an optimizer as its lr."""
        return state["lr"]

    def _numbers(self) -> dict[str, float | Tensor]:
        return {name: getattr(self, name) for name in ("lr", "factor", "threshold", "min_lr", "eps")}

    def _better(self, metric: Tensor, best: Tensor) -> Tensor:
        threshold = as_tensor(self.threshold, best)
        if self.mode == "min":
            return metric < (best * (1 - threshold) if self.threshold_mode == "rel" else best - threshold)
        return metric > (best * (1 + threshold) if self.threshold_mode == "rel" else best + threshold)


plateau = Plateau
