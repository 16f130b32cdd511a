"""Schedule-Free: averaging in place of a decaying learning rate."""

from collections.abc import Iterable
from typing import Any, TypedDict

import torch
from torch import Tensor

from ..record import at_most_one, hyper, non_negative, record
from ..tensors import as_tensor, at, check_grads, check_params, each_leaf, first_step, precise, scalar, wide
from ..transforms.chain import widest
from ..types import Hyper, Optimizer, Scope, Tensors
from .describe import learning_rates


class ScheduleFreeState(TypedDict):
    """The optimizer's own state, and the two sequences beside the params."""

    optimizer: Any
    step: Tensor  # int64, 0-d: updates done so far
    z: dict[str, Tensor]  # where the optimizer itself would be, like params, float32 or wider
    x: dict[str, Tensor]  # the average that is evaluated, like params, float32 or wider
    largest_lr: Tensor  # float64, 0-d
    weight_sum: Tensor  # float64, 0-d


@record
class ScheduleFree:
    r"""Train any Optimizer without a schedule for its learning rate (warm-up apart).

        z_t = optimizer(z, gradient at y)        c_t = w_t / (w_1 + … + w_t), w_t = (largest lr so far)^weight_lr_power
        x_t = (1 - c_t) x + c_t z_t              y_t = (1 - momentum) z_t + momentum x_t

    `params` are y, where gradients are taken; `eval_params` is x, and there is no mode to forget to switch. Give the
    optimizer inside no momentum of its own: SGD(lr), or AdamW(lr, betas=(0.0, 0.999)). Its weight decay acts on z.
    BatchNorm's statistics belong to y: recompute them for x before evaluating.

    Law: with momentum 1 and a constant lr, params are the plain mean of all z.

    >>> from fnopt import SGD
    >>> optimizer, params = ScheduleFree(SGD(1.0), momentum=0.5), {"w": torch.tensor([1.0])}
    >>> state = optimizer.init_state(params)
    >>> for _ in range(2):
    ...     params, state = optimizer.update({"w": torch.tensor([1.0])}, state, params)
    >>> params["w"], optimizer.eval_params(state, params)["w"]
    (tensor([-0.7500]), tensor([-0.5000]))

    Raises HyperparameterError for a number out of range. Source: Defazio et al. 2024, arXiv:2405.15682.
    """

    optimizer: Optimizer[Any]
    momentum: Hyper = hyper(default=0.9, check=at_most_one)
    weight_lr_power: Hyper = hyper(default=2.0, check=non_negative)

    @property
    def scope(self) -> Scope:
        """That of the optimizer inside: averaging is elementwise."""
        return widest((self.optimizer,))

    def init_state(self, params: Tensors) -> ScheduleFreeState:
        """All three sequences begin at params."""
        check_params("ScheduleFree", params)
        step = first_step(params)
        zero = torch.zeros((), dtype=precise(step.device), device=step.device)
        return {
            "optimizer": self.optimizer.init_state(params),
            "step": step,
            "z": {name: p.to(wide(p.dtype), copy=True) for name, p in params.items()},
            "x": {name: p.to(wide(p.dtype), copy=True) for name, p in params.items()},
            "largest_lr": zero,
            "weight_sum": zero.clone(),
        }

    def update(
        self, grads: Tensors, state: ScheduleFreeState, params: Tensors
    ) -> tuple[dict[str, Tensor], ScheduleFreeState]:
        """One update of the optimizer at z with the gradient at y, and of the average."""
        check_grads("ScheduleFree", grads, params)
        t = state["step"]
        momentum, exponent = at(t, self.momentum, self.weight_lr_power)
        lr = as_tensor(learning_rates(self.optimizer, t).get("lr", 1.0), state["largest_lr"])
        largest = torch.maximum(state["largest_lr"], lr)
        weight = largest ** as_tensor(exponent, largest)
        total = state["weight_sum"] + weight
        c = torch.where(total > 0, weight / torch.where(total > 0, total, 1.0), 0.0)
        z, inner = self.optimizer.update(grads, state["optimizer"], state["z"])

        def average(x: Tensor, z: Tensor) -> tuple[Tensor]:
            return (torch.lerp(x, z, scalar(c, x)),)

        def between(y: Tensor, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.lerp(z, x, as_tensor(momentum, x)), x

        (x,) = each_leaf(average, state["x"], z)
        y, _ = each_leaf(between, params, z, x)
        return y, {
            "optimizer": inner, "step": t + 1, "z": z, "x": x, "largest_lr": largest, "weight_sum": total
        }  # fmt: skip

    def eval_params(self, state: ScheduleFreeState, params: Tensors) -> dict[str, Tensor]:
        """The average x, in the dtype of params."""
        return {name: state["x"][name].to(p.dtype) for name, p in params.items()}

    def inner(self, names: Iterable[str]) -> list[tuple[str, Optimizer[Any], list[str]]]:
        """The optimizer inside, which owns all parameters."""
        return [("", self.optimizer, list(names))]
