"""`make_step`: a GradFn and an Optimizer make one update of a TrainState."""

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from .errors import HyperparameterError, StructureError, UsageError
from .grads import Graded, GradFn
from .loss_scale import LossScale, StaticLossScale
from .record import evolve, record
from .rules.describe import learning_rates
from .state import TrainState, buffers_of, params_of
from .tensors import all_finite, as_tensor, check_params, global_norm, select
from .transforms.chain import check_pure, eval_params
from .types import GradTransform, Metrics, Optimizer, Tensors

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)


class StepFn(Protocol[B_contra]):
    """One optimizer update, pure: it changes none of its inputs, and the same call gives the same bits."""

    def init_state(self, model: nn.Module | Tensors, /, seed: int = 0) -> TrainState: ...
    def step(self, state: TrainState, batch: B_contra, /) -> tuple[TrainState, Metrics]: ...
    def eval_params(self, state: TrainState, /) -> dict[str, Tensor]: ...


@record
class Step(Generic[B]):
    """What `make_step` makes: a StepFn."""

    grad_fn: GradFn[B]
    optimizer: Optimizer[Any]
    loss_scale: LossScale

    def init_state(self, model: nn.Module | Tensors, seed: int = 0) -> TrainState:
        """A run at its beginning: a copy of the weights of a module, or of a dict of params."""
        if isinstance(cast(object, seed), bool) or not isinstance(cast(object, seed), int) or seed < 0:
            raise HyperparameterError(f"init_state: seed must be an int >= 0, got {seed!r}")
        if isinstance(model, nn.Module):
            params, buffers = params_of(model), buffers_of(model)
        else:
            check_params("init_state", model)
            params, buffers = {name: leaf.detach().clone() for name, leaf in model.items()}, None
        return TrainState.of(
            params,
            buffers=buffers,
            opt_state=self.optimizer.init_state(params),
            loss_scale=self.loss_scale.init_state(params),
            seed=seed,
        )

    def step(self, state: TrainState, batch: B) -> tuple[TrainState, Metrics]:
        """One update. Where the loss or a gradient is not finite, or nothing had weight, it is skipped and reported:
        params, buffers, opt_state and `updates` then keep every bit; `position` and the loss scale move on.
        """
        if not isinstance(cast(object, state), TrainState):
            got = type(state).__name__
            raise UsageError(
                f"step: got a {got} as state, expected a TrainState; write step.step(state, batch), with "
                "state = step.init_state(model) to begin"
            )
        return self.apply(state, self.grad_fn(state, batch))

    def apply(self, state: TrainState, graded: Graded) -> tuple[TrainState, Metrics]:
        """The part of a step after the gradients: division, finite test, optimizer, select, loss scale."""
        if "scale" not in state.loss_scale:
            raise StructureError(
                "step: this state has no loss_scale and so is not of a step, expected one from step.init_state(model)"
            )
        weighted = graded.weight > 0
        grads = mean(graded, weighted)
        finite = all_finite(grads) & torch.isfinite(graded.loss)
        applied = finite & weighted
        params, opt_state = _updated(self.optimizer, grads, state)
        new = evolve(
            state,
            params=select(applied, params, state.params),
            buffers=select(applied, graded.buffers, state.buffers),
            opt_state=select(applied, opt_state, state.opt_state),
            loss_scale=self.loss_scale.update(state.loss_scale, finite & (graded.dropped == 0), applied),
            updates=state.updates + applied,
            position=state.position + 1,
        )
        return new, self._metrics(state, graded, grads, opt_state, applied)

    def eval_params(self, state: TrainState) -> dict[str, Tensor]:
        """The weights to evaluate: an average where the optimizer keeps one, else params."""
        return eval_params(self.optimizer, state.opt_state, state.params)

    def _metrics(self, state: TrainState, graded: Graded, grads: Tensors, opt_state: Any, applied: Tensor) -> Metrics:
        loss, per_weight = graded.loss, torch.where(graded.weight > 0, graded.weight, 1.0)
        return {
            "loss": loss / per_weight,
            "weight": graded.weight,
            "grad_norm": global_norm(grads),
            "clip_coef": torch.ones_like(loss),
            **{name: as_tensor(rate, loss) for name, rate in learning_rates(self.optimizer, state.updates).items()},
            "loss_scale": state.loss_scale["scale"],
            "skipped": 1 - applied.to(torch.int64),
            "dropped": graded.dropped,
            **dict(reported(opt_state)),
            **{name: value / per_weight for name, value in graded.aux.items()},
        }


def make_step(grad_fn: GradFn[B], optimizer: Optimizer[Any], *, loss_scale: LossScale | None = None) -> Step[B]:
    """One update as a pure function: gradients, one division by the total weight, one finite test, optimizer, select.

    `step(state, batch) -> (state, metrics)` takes what `grad_fn` takes. Metrics are 0-d tensors that nobody has waited
    for: `loss` (mean over the weight), `weight`, `grad_norm` (before transforms), `clip_coef`, `lr` (and `lr/<label>`),
    `loss_scale`, `skipped`, `dropped`, what transforms report and the loss's aux, divided by the weight.

    >>> from fnopt import SGD, value_and_grad
    >>> step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(lr=0.5))
    >>> state, metrics = step.step(step.init_state({"w": torch.ones(())}), torch.tensor([1.0, 3.0]))
    >>> state.params, metrics["loss"], int(state.updates)
    ({'w': tensor(0.)}, tensor(2.), 1)

    Raises UsageError for an optimizer that is not pure, or is a transform only.
    """
    if not callable(cast(object, grad_fn)):
        raise UsageError(f"make_step: grad_fn is {grad_fn!r}, expected value_and_grad(model, loss)")
    thing = cast(object, optimizer)
    if isinstance(thing, GradTransform) and not isinstance(thing, Optimizer | type):
        name = type(cast(object, optimizer)).__name__
        raise UsageError(
            f"make_step: {name} only transforms gradients; end it with an Optimizer: chain({name}(…), SGD(lr))"
        )
    check_pure("make_step", optimizer, Optimizer)
    return Step(grad_fn, optimizer, StaticLossScale() if loss_scale is None else loss_scale)


def _updated(optimizer: Optimizer[Any], grads: dict[str, Tensor], state: TrainState) -> tuple[Tensors, Any]:
    """What the optimizer makes of the gradients: a pair, of params first."""
    result: Any = optimizer.update(grads, state.opt_state, state.params)
    pair = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else ()
    if len(pair) == 2 and isinstance(pair[0], dict) and cast(Tensors, pair[0]).keys() == state.params.keys():
        return cast(Any, pair)
    got = f"({_named(pair[0])}, …)" if len(pair) == 2 else _named(result)
    name = type(cast(object, optimizer)).__name__
    raise StructureError(
        f"step: update of {name} returned {got}, expected (params, state), params a dict with the names that it was "
        f"given; update takes (grads, state, params), and fnopt.laws.check tries all of it"
    )


def _named(value: Any) -> str:
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    names = [str(name) for name in cast(dict[Any, Any], value)]
    return f"a dict of {', '.join(names[:3]) or 'nothing'}{', …' if len(names) > 3 else ''}"


def mean(graded: Graded, weighted: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean loss: the one division."""
    weight = torch.where(weighted, graded.weight, 1.0)
    return {name: leaf / weight.to(leaf.device, leaf.dtype) for name, leaf in graded.grads.items()}


def reported(opt_state: Any, path: str = "", seen: set[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """What transforms wrote under "metrics" in their state; a name that comes again is qualified by its path."""
    seen = set[str]() if seen is None else seen
    if not isinstance(opt_state, dict):
        return
    for key, value in cast(dict[str, Any], opt_state).items():
        if key == "metrics" and isinstance(value, dict):
            for name, metric in cast(dict[str, Any], value).items():
                if isinstance(metric, Tensor):
                    yield (f"{name}/{path}" if name in seen else name), metric
                    seen.add(name)
        else:
            yield from reported(value, f"{path}/{key}" if path else key, seen)
