"""What was not finite in a step that was skipped: found by computing its gradient once more, and by name."""

from collections.abc import Iterable
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from .batch import tensors_of
from .compile import Compiled
from .compile.body import micro_batches, oracle_of
from .ensemble import Ensemble
from .grads import Graded
from .record import evolve
from .state import TrainState
from .types import Metrics, Tensors

MOST = 5  # names that a message lists


@attrs.frozen
class NonFinite:
    """Where the nan and infinities of a skipped step are; of an ensemble, those of any member.

    position       of the step; `fnopt.Batches.at(position)` gives its batch again
    loss_scale     that the step used; of an ensemble, the largest
    losses         of each micro-batch the mean loss, nan without weight; of an ensemble, one that is not finite, if any
    bad            the micro-batches (from 0) whose loss or a gradient is not finite
    gradients, params, buffers, batch     names of what is not finite; params and buffers as they were before the step
    weightless     did nothing have weight, though all was finite?
    """

    position: int
    loss_scale: float
    losses: tuple[float, ...]
    bad: tuple[int, ...]
    gradients: tuple[str, ...]
    params: tuple[str, ...]
    buffers: tuple[str, ...]
    batch: tuple[str, ...]
    weightless: bool

    def __str__(self) -> str:
        if self.weightless:
            return f"at position {self.position} nothing had weight"
        parts = [f"the loss is {loss}" for loss in [self.losses[place] for place in self.bad][:1]]
        named = {"gradient": self.gradients, "parameter": self.params, "buffer": self.buffers}
        parts += [f"{name}s not finite: {_some(names)}" for name, names in named.items() if names]
        if self.batch:
            parts.append(f"and so is the input: {_some(self.batch)}")
        if parts and not (self.params or self.buffers or self.batch):
            parts.append("params and input are finite: it arose on the way: log(0), sqrt at 0, 0 / 0, or an overflow")
        if not parts:
            parts = ["computed again it is finite: the loss is not a function of (state, batch)"]
        part = (
            f", in batch[{self.bad[0]}] of {len(self.losses)} micro-batches"
            if len(self.losses) > 1 and self.bad
            else ""
        )
        return f"at position {self.position}{part} (loss scale {self.loss_scale:g}): {', '.join(parts)}"


def find_nonfinite(step: Any, state: TrainState, batch: Any, metrics: Metrics) -> NonFinite:
    """What was not finite in the step that led to `state` and skipped `batch`.

    A skipped step leaves params, buffers and opt_state as they were, so its gradient can be had again: one eager
    gradient, which also waits for the device.
    """
    before = _before(state, metrics)
    with torch.no_grad():
        gradeds = gradients_of(step, before, batch)
        bad = [not bool(_finite_members(graded, state.updates.ndim).all()) for graded in gradeds]
    return NonFinite(
        position=before.position,
        loss_scale=float(before.loss_scale["scale"].max()),
        losses=tuple(_loss(graded) for graded in gradeds),
        bad=tuple(place for place, is_bad in enumerate(bad) if is_bad),
        gradients=_union(bad_names(graded.grads) for graded in gradeds),
        params=bad_names(state.params),
        buffers=bad_names(state.buffers),
        batch=bad_names(tensors_of(batch)),
        weightless=bool(gradeds) and not any(bad) and not any(bool((graded.weight > 0).any()) for graded in gradeds),
    )


def is_searching(step: Any, state: TrainState, batch: Any, metrics: Metrics) -> bool:
    """Was the step skipped only because of its loss scale, and is the scale on its way down?

    A float16 run may skip 16 steps until its scale of 2^16 has come down to what its gradients bear. That is no
    failure, and the test is exact: without the scale, the gradient of the very batch is finite.
    """
    before = _before(state, metrics)
    scale = before.loss_scale["scale"]
    falling = (scale > 1) & (state.loss_scale["scale"] < scale)
    if not falling.any():
        return False
    bare = evolve(before, loss_scale={**before.loss_scale, "scale": torch.ones_like(scale)})
    with torch.no_grad():
        gradeds = gradients_of(step, bare, batch)
        good = [_finite_members(graded, scale.ndim) & (graded.weight > 0) for graded in gradeds]
    return bool(good) and bool((falling & torch.stack(good).all(0)).any())


def gradients_of(step: Any, state: TrainState, batch: Any) -> list[Graded]:
    """The gradient of each micro-batch, eagerly, with none dropped; of an ensemble, of all members; of a StepFn that
    has no `grad_fn`, none.
    """
    if isinstance(step, Compiled):
        return gradients_of(cast(Any, step).inner, state, batch)
    if isinstance(step, Ensemble):
        return cast("Ensemble[Any]", step).members(gradients_of, state, batch)
    grad_fn = getattr(step, "grad_fn", None)
    if grad_fn is None:
        return []
    oracle = oracle_of(grad_fn)
    if oracle is None:
        return [grad_fn(state, batch)]
    gradeds: list[Graded] = []
    for seed, part in micro_batches(grad_fn, state.seed, batch):
        gradeds.append(oracle.grad_fn(evolve(state, seed=seed), part))
        if not oracle.drop_nonfinite:
            state = evolve(state, buffers=gradeds[-1].buffers)
    return gradeds


def bad_names(tensors: Tensors) -> tuple[str, ...]:
    """The names of those with a nan or an infinity."""
    return tuple(name for name, leaf in tensors.items() if not bool(torch.isfinite(leaf).all()))


def _before(state: TrainState, metrics: Metrics) -> TrainState:
    """The state that the skipped step began with, as far as a gradient can tell."""
    scale = metrics.get("loss_scale", state.loss_scale["scale"])
    return evolve(state, position=state.position - 1, loss_scale={**state.loss_scale, "scale": scale})


def _finite_members(graded: Graded, members: int) -> Tensor:
    """Are loss and gradients finite? 0-d, or with one answer for each member."""
    finite = torch.isfinite(graded.loss)
    for leaf in graded.grads.values():
        flags = torch.isfinite(leaf).to(finite.device)
        finite = finite & (flags.reshape(len(flags), -1).all(1) if members else flags.all())
    return finite


def _loss(graded: Graded) -> float:
    means = (graded.loss / graded.weight).flatten()
    bad = means[~torch.isfinite(means)]
    return float((bad if len(bad) else means)[0])


def _union(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
