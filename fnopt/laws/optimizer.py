"""Laws of update rules, whatever their formula."""

from typing import Any

import torch
from torch import Tensor

from ..errors import FnoptError
from ..record import record
from .bits import leaves, real, require, require_same, run, same_values
from .case import Case
from .domain import has_own, is_noiseless, takes
from .fields import with_fields
from .kinds import kind_of
from .law import law
from .strategies import Drawn, sample

STEPPERS = ("optimizer", "torch optimizer")


@law(*STEPPERS, values="tame", where=[takes("lr", 0.0)])
def law_zero_lr_moves_nothing(thing: Any, case: Case) -> None:
    """With lr = 0, its own and that of its parts, no parameter moves: decay is multiplied by lr too.

    Values are the same; a -0.0 may become 0.0.
    """
    params, grads = case.fresh()
    for update, (new, _) in enumerate(run(with_fields(thing, lr=0.0), params, grads)):
        for name, leaf in params.items():
            message = ("with lr = 0, update {} moved {} from {} to {}", update, name, leaf, new[name])
            require(torch.equal(new[name], leaf), *message)


@law(*STEPPERS, values="tame", where=[is_noiseless])
def law_zero_gradients_move_nothing(thing: Any, case: Case) -> None:
    """Without weight decay, gradients that have always been zero leave every parameter where it is."""
    params, grads = case.fresh()
    still = [{name: torch.zeros_like(leaf) for name, leaf in gradient.items()} for gradient in grads]
    for update, (new, _) in enumerate(run(with_fields(thing, weight_decay=0.0), params, still)):
        for name, leaf in params.items():
            message = ("without a gradient, update {} moved {} from {} to {}", update, name, leaf, new[name])
            require(torch.equal(new[name], leaf), *message)


@law(*STEPPERS, "transform", values="tame", where=[is_noiseless])
def law_negated_gradients_move_the_other_way(thing: Any, case: Case) -> None:
    """Negated params and gradients give the negated result, entry by entry: no direction is preferred.

    Values are the same; the sign of a zero is free.
    """
    params, grads = case.fresh()
    mirrored = run(thing, _negated(params), [_negated(gradient) for gradient in grads])
    for update, ((result, _), (other, _)) in enumerate(zip(run(thing, params, grads), mirrored, strict=True)):
        for name, leaf in result.items():
            same = same_values(real(-other[name]), real(leaf))
            require(same, "result {} of {} is {}, and mirrored {}", update, name, leaf, other[name])


@law(*STEPPERS, values="calm", where=[takes("lr", 0.01), is_noiseless])
def law_descends_on_a_quadratic(thing: Any, case: Case) -> None:
    """Three updates with lr = 0.01 and no decay bring p nearer to the minimum of |p|^2 / 2, where its gradient is p.

    In float64, begun with every entry at 0 or at least 1 away: a rule that steps by the sign circles the minimum. Where
    the thing moves nothing at all (all is frozen, or every entry is at 0) there is nothing to see.
    """
    params, _ = case.doubled().fresh()
    params = {name: leaf + leaf.sgn() for name, leaf in params.items()}
    descent = with_fields(thing, lr=0.01, weight_decay=0.0, maximize=False)
    first, grads = params, [params]
    for _ in range(3):  # the gradient of each update is where the last one went
        *_, (params, _) = run(descent, first, grads)
        grads = [*grads, params]
    begin, end = _square(first), _square(params)
    moved = any(not torch.equal(params[name], leaf) for name, leaf in first.items())
    require(not moved or end < begin, f"after three updates the loss is {end:.9g}, and it began at {begin:.9g}")


def remembers(thing: Any, drawn: Drawn) -> str:
    """Only things with a memory of their own, apart from counts and reports."""
    if kind_of(thing) == "torch optimizer":
        return ""
    if hasattr(thing, "inner") or hasattr(thing, "optimizer"):
        return "is made around another, whose state is checked alone"
    held = _memory(thing.init_state(sample(**drawn)))
    return "" if held else "remembers nothing but a count"


@law("optimizer", "transform", values="calm", where=[is_noiseless, remembers])
def law_gradients_move_the_state(thing: Any, case: Case) -> None:
    """An update with a gradient that is zero nowhere changes something that is remembered beside the count.

    In float64: half precision may round a small gradient away.
    """
    params, grads = case.doubled().fresh()
    grads = [{name: torch.where(leaf == 0, 1.0, leaf) for name, leaf in g.items()} for g in grads]
    if not any(leaf.numel() for leaf in params.values()):
        return
    before = _memory(thing.init_state(params))
    _, state = next(run(thing, params, grads[:1]))
    after = _memory(state)
    require(any(not torch.equal(before[path], after[path]) for path in before), f"{list(before)} stayed as they were")


@record
class _Falling:
    """A schedule that is another number at each update."""

    first: float = 0.1

    def __call__(self, step: Tensor) -> Tensor:
        return self.first / (1 + step.to(torch.float64))


def takes_schedules(thing: Any, drawn: Drawn) -> str:
    """Only things whose lr may be a Schedule."""
    params = sample(**drawn)
    try:
        scheduled = with_fields(thing, lr=_Falling())
        state = scheduled.init_state(params)
        scheduled.update(params, state, params)
    except (FnoptError, TypeError, ValueError, AttributeError):
        return "takes no Schedule for lr"
    same = list(leaves(state, "state")) == list(leaves(thing.init_state(params), "state"))
    return "" if same else "has another state where lr is a Schedule"


@law("optimizer", values="tame", where=[has_own("lr"), takes_schedules])
def law_schedules_are_read_at_the_count(thing: Any, case: Case) -> None:
    """At update t (from 0) a Schedule for lr counts as its value at t: it is read before the update is counted."""
    params, grads = case.fresh()
    falling = _Falling()
    state = with_fields(thing, lr=falling).init_state(params)
    for update, gradient in enumerate(grads):
        value = falling(torch.tensor(update))
        got, after = with_fields(thing, lr=falling).update(gradient, state, params)
        expected, _ = with_fields(thing, lr=value).update(gradient, state, params)
        require_same(got, expected, f"params after update {update}", f"so they are with lr={float(value):.6g}")
        params, state = got, after


def _negated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: -leaf for name, leaf in tensors.items()}


def _square(params: dict[str, Tensor]) -> float:
    return sum(float(real(leaf).square().sum()) for leaf in params.values())


def _memory(state: Any) -> dict[str, Tensor]:
    """The leaves of a state but for counts and reports."""
    held = leaves(state, "state")
    return {path: leaf for path, leaf in held.items() if not path.endswith("['step']") and "['metrics']" not in path}
