"""Laws of steps: what is skipped is as if it had not been, and two clocks tell which was which."""

from typing import Any, cast

import torch
from torch import Tensor

from .._torch import tree_leaves
from ..compile import Compiled
from ..grads import Graded, GradFn
from ..record import evolve, record
from ..state import TrainState, snapshot
from ..tensors import tensor_map
from .bits import require, require_close, require_same
from .case import Calls
from .domain import has_own, is_a
from .fields import own_fields
from .grad_fn import emptied, keeps_its_input, takes_no_examples
from .law import law
from .strategies import Drawn

KEPT = ("params", "buffers", "opt_state", "updates", "seed", "extra")


@record
class _Spoiled:
    """A GradFn whose gradients and loss are nan."""

    grad_fn: GradFn[Any]

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        graded = self.grad_fn(state, batch)
        grads = tensor_map(lambda leaf: leaf * torch.nan, graded.grads)
        return evolve(graded, grads=grads, loss=graded.loss * torch.nan)


def can_be_spoiled(thing: Any, drawn: Drawn) -> str:
    """Only steps whose batch has floating-point numbers, or that are a record around a grad_fn."""
    return "" if _has_floats(drawn.get("batch")) or hasattr(thing, "grad_fn") else "has neither floats in nor a grad_fn"


def is_eager(thing: Any, _: Drawn) -> str:
    """Only steps that run operation by operation."""
    return "is compiled: equal to rounding" if isinstance(thing, Compiled) else ""


@law("step", where=[is_a(Compiled)])
def law_compiled_is_eager(thing: Any, case: Calls) -> None:
    """A compiled step gives what the step inside it gives: integers and names the same, numbers to rounding.

    Params, call by call from the same state, within 1e-6 of the largest of what they were and how far they moved.
    """
    state, batches = case.begin(thing)
    for batch in batches:
        before = snapshot(state)
        expected, theirs = cast("Compiled[Any]", thing).inner.step(before, batch)
        state, metrics = thing.step(state, batch)
        require(_clocks(state) == _clocks(expected), f"{_clocks(state)}, in eager {_clocks(expected)}")
        require(list(metrics) == list(theirs), f"metrics are {list(metrics)}, expected {list(theirs)}")
        for name, leaf in expected.params.items():
            old = before.params[name]
            bound = 1e-6 * torch.maximum(old.abs(), (leaf - old).abs()).amax() if leaf.numel() else 0.0
            require_close(state.params[name], leaf, bound, f"{name!r}, compiled", "so it is in eager")


@law("step", where=[keeps_its_input, can_be_spoiled])
def law_nonfinite_never_enters(thing: Any, case: Calls) -> None:
    """A call on nan is skipped and says so: params, buffers, state and `updates` keep every bit, `position` moves."""
    state, batches = case.begin(thing)
    for batch in batches:
        after, metrics = _spoiled_step(thing, state, batch)
        require_same(_kept(after), _kept(state), "after a call on nan", "so it was before")
        require(after.position == state.position + 1, f"position is {after.position}, and was {state.position}")
        require((metrics["skipped"] == 1).all(), "metrics['skipped'] is {}", metrics["skipped"])
        state, _ = thing.step(state, batch)


@law("step", where=[keeps_its_input, can_be_spoiled])
def law_overflow_is_forgotten(thing: Any, case: Calls) -> None:
    """The clean call after one on nan gives the bits that it gives from a state that never saw the nan.

    With the same position, from which the randomness is drawn, and the same loss scale.
    """
    state, batches = case.begin(thing)
    for batch in batches:
        after, _ = _spoiled_step(thing, state, batch)
        untouched = evolve(state, position=after.position, loss_scale=after.loss_scale)
        (got, metrics), (expected, theirs) = thing.step(after, batch), thing.step(untouched, batch)
        require_same(own_fields(got), own_fields(expected), "state", "so it is from an untouched state")
        require_same(metrics, theirs, "metrics", "so they are from an untouched state")
        state = expected


@law("step", where=[keeps_its_input, takes_no_examples])
def law_no_examples_change_nothing(thing: Any, case: Calls) -> None:
    """A call on no examples is skipped and says so, and is no overflow: the loss scale does not back off."""
    state, batches = case.begin(thing)
    for batch in batches:
        after, metrics = thing.step(state, emptied(batch))
        require_same(_kept(after), _kept(state), "after no examples", "so it was before")
        require((metrics["skipped"] == 1).all(), "metrics['skipped'] is {}", metrics["skipped"])
        scale, before = after.loss_scale["scale"], state.loss_scale["scale"]
        require((scale >= before).all(), "the loss scale backed off from {} to {}", before, scale)


@law("step", where=[can_be_spoiled])
def law_two_clocks(thing: Any, case: Calls) -> None:
    """`position` counts calls, `updates` those that were not skipped; both begin at 0, and metrics say which it was."""
    state, batches = case.begin(thing)
    applied = torch.zeros_like(state.updates)
    for call in range(2 * len(batches)):
        right = state.position == call and torch.equal(state.updates, applied)
        require(right, f"{_clocks(state)} before call {call}, after {applied} updates")
        batch = batches[call // 2]
        state, metrics = _spoiled_step(thing, state, batch) if call % 2 else thing.step(state, batch)
        applied = applied + 1 - metrics["skipped"]
    require(torch.equal(state.updates, applied), f"{_clocks(state)} after {applied} updates")


@law("step", where=[is_eager, has_own("grad_fn", "optimizer")])
def law_step_is_one_update_along_the_mean(thing: Any, case: Calls) -> None:
    """New params and state are those of `optimizer.update` along the gradient sum over the weight, divided once."""
    state, batches = case.begin(thing)
    for batch in batches:
        after, metrics = thing.step(state, batch)
        graded = thing.grad_fn(state, batch)
        if not metrics["skipped"]:
            grads = {name: leaf / graded.weight.to(leaf.dtype) for name, leaf in graded.grads.items()}
            expected = thing.optimizer.update(grads, state.opt_state, state.params)
            require_same((after.params, after.opt_state), expected, "params and state", "so they are by the optimizer")
        state = after


def _spoiled_step(thing: Any, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Tensor]]:
    if _has_floats(batch):
        return thing.step(state, tensor_map(_nan, batch))
    return evolve(thing, grad_fn=_Spoiled(thing.grad_fn)).step(state, batch)


def _has_floats(batch: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() for leaf in tree_leaves(batch))


def _nan(leaf: Tensor) -> Tensor:
    return torch.full_like(leaf, torch.nan) if leaf.is_floating_point() else leaf


def _kept(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in KEPT}


def _clocks(state: TrainState) -> str:
    return f"position is {state.position} and updates {cast(Any, state.updates).tolist()}"
