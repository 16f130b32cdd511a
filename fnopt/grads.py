"""The gradient oracle: `value_and_grad` of a loss that returns a sum and its weight.

A GradFn maps (TrainState, Batch) to a Graded and is pure; `accumulate` and `autocast` map a GradFn to a GradFn.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from ._torch import inside_transform
from .errors import LossError, StructureError, UsageError
from .functional import Forward, LossOutput, Outputs, forward_of
from .randomness import mix, seeded
from .record import record
from .state import TrainState
from .tensors import check_grads, device_of, select, wide
from .types import Tensors

B = TypeVar("B")
M = TypeVar("M", bound=nn.Module)
B_contra = TypeVar("B_contra", contravariant=True)


@record
class Graded:
    """What a GradFn returns; Gradeds add up (`accumulate`), and `make_step` divides once, by the total weight.

    grads     the gradient of the loss **sum**: unscaled, float32 or wider, keys and shapes of params
    loss      the loss sum, 0-d
    weight    what the loss is a sum over (tokens, samples), 0-d
    buffers   the module's buffers after the forward pass
    aux       sums that the loss returned beside (hits, …), 0-d each; Metrics shows them divided by the weight
    dropped   int64, 0-d: micro-batches that `accumulate(drop_nonfinite=True)` left out
    """

    grads: dict[str, Tensor]
    loss: Tensor
    weight: Tensor
    buffers: dict[str, Tensor]
    aux: dict[str, Tensor]
    dropped: Tensor


class GradFn(Protocol[B_contra]):
    """A pure function from a TrainState and a batch to a Graded."""

    def __call__(self, state: TrainState, batch: B_contra, /) -> Graded: ...


@record
class ValueAndGrad:
    """What `value_and_grad` makes: a GradFn."""

    forward: Forward

    def __call__(self, state: TrainState, batch: Any, /) -> Graded:
        if isinstance(batch, list):
            raise UsageError(
                "value_and_grad: got a list, expected one Batch; a list is micro-batches, for accumulate(grad_fn); a "
                "batch that a DataLoader collated as a list is tuple(batch)"
            )
        scale = state.loss_scale.get("scale", torch.ones((), device=device_of(state.params)))
        with seeded(mix(state.seed, state.position), device_of(state.params)):
            oracle = self._transformed if inside_transform() else self._eager
            grads, outputs = oracle(state, batch, scale)
        check_grads("value_and_grad", grads, state.params)
        return _graded(grads, outputs, scale, state.buffers)

    def _eager(self, state: TrainState, batch: Any, scale: Tensor) -> tuple[dict[str, Tensor], Outputs]:
        tracked = [name for name, leaf in state.params.items() if leaf.requires_grad]
        if tracked:
            raise StructureError(
                f"value_and_grad: params {tracked[:5]} require grad, and the result would not depend on them; to "
                "differentiate through a step use torch.func.grad, else pass fnopt.params_of(model)"
            )
        live = {name: leaf.detach().requires_grad_() for name, leaf in state.params.items()}
        with torch.enable_grad():
            loss, weight, aux, buffers = self.forward(live, state.buffers, batch)
        _check_grad(loss, live)
        # the backward pass runs in the dtypes that autocast chose in the forward pass, and outside of it
        with torch.autocast(loss.device.type, enabled=False):
            seed = _seed(loss, weight.detach(), scale)
            found = torch.autograd.grad(loss, list(live.values()), seed, materialize_grads=True) if live else ()
        outputs = loss.detach(), weight.detach(), _detached(aux), _detached(buffers)
        return dict(zip(live, found, strict=True)), outputs

    def _transformed(self, state: TrainState, batch: Any, scale: Tensor) -> tuple[dict[str, Tensor], Outputs]:
        # nothing is detached: an outer `grad` may ask how the loss of a later step depends on a hyperparameter
        def forward(params: dict[str, Tensor]) -> tuple[Tensor, Any]:
            loss, *rest = self.forward(params, state.buffers, batch)
            _check_grad(loss, params)
            return loss, tuple(rest)

        if not state.params:
            return {}, self.forward({}, state.buffers, batch)
        vjp = cast(Callable[..., tuple[Tensor, Callable[[Tensor], Any], Any]], torch.func.vjp)
        loss, pull, (weight, aux, buffers) = vjp(forward, dict(state.params), has_aux=True)
        with torch.autocast(loss.device.type, enabled=False):
            (grads,) = pull(_seed(loss, weight, scale))
        return grads, (loss, weight, aux, buffers)


def _check_grad(loss: Tensor, params: Tensors) -> None:
    if params and not loss.requires_grad:
        raise LossError(
            f"value_and_grad: the loss (shape {list(loss.shape)}, requires_grad False) does not depend on any "
            "parameter that requires grad; return the sum of the model's own output, not a detached or converted copy"
        )


def _graded(grads: Tensors, outputs: Outputs, scale: Tensor, before: Tensors) -> Graded:
    """Undo the seed of the backward pass, in float32; what has no weight counts nothing, whatever it computed."""
    loss, weight, aux, buffers = outputs
    counts, factor = weight > 0, weight / scale

    def unscale(leaf: Tensor) -> Tensor:
        leaf = leaf.to(wide(leaf.dtype))
        return torch.where(counts.to(leaf.device), leaf * factor.to(leaf.device), 0.0).to(leaf.dtype)

    return Graded(
        grads={name: unscale(leaf) for name, leaf in grads.items()},
        loss=torch.where(counts, loss, 0.0).to(loss.dtype),
        weight=weight,
        buffers=select(counts, buffers, dict(before)),
        aux={name: torch.where(counts, value, 0.0) for name, value in aux.items()},
        dropped=torch.zeros_like(weight, dtype=torch.int64),
    )


def _seed(loss: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """What the backward pass begins with: scale / weight, and 0 where there is no weight."""
    inverse = torch.where(weight > 0, 1.0 / torch.where(weight > 0, weight, 1.0), 0.0)
    return (scale * inverse).to(loss.dtype)


def _detached(tensors: Tensors) -> dict[str, Tensor]:
    # what needs no detaching stays itself: `select` copies nothing that nobody changed
    return {name: leaf.detach() if leaf.requires_grad else leaf for name, leaf in tensors.items()}


@overload
def value_and_grad(model: M, loss: Callable[[M, B], LossOutput], /) -> GradFn[B]: ...
@overload
def value_and_grad(loss: Callable[[dict[str, Tensor], B], LossOutput], /) -> GradFn[B]: ...
def value_and_grad(model: Any, loss: Any = None, /) -> Any:
    """The GradFn of `loss(model, batch)`, or of a pure `loss(params, batch)`.

    The loss returns `(loss_sum, weight)` or `(loss_sum, weight, aux)`: a sum over the batch, what it is a sum over, and
    other sums to report. It gets the real module, with all its methods and in its present train / eval mode, its
    parameters and buffers swapped for the state's. Torch's global generator is seeded by (seed, position) meanwhile and
    given back as it was, so dropout is a function of the state. A parameter that the loss does not use has zeros.

    >>> grad_fn = value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x)))
    >>> graded = grad_fn(TrainState.of({"w": torch.ones(())}), torch.tensor([1.0, 3.0]))
    >>> graded.grads, graded.weight
    ({'w': tensor(4.)}, tensor(2.))

    Raises LossError for any other return value, DistributedModuleError for DDP and FSDP modules.
    """
    if loss is None:
        if isinstance(model, nn.Module):
            raise UsageError("value_and_grad: got a module and no loss, expected value_and_grad(model, loss)")
        return ValueAndGrad(Forward(model, None, {}, ()))
    if not isinstance(model, nn.Module):
        raise UsageError(f"value_and_grad: got a {type(model).__name__} first, expected value_and_grad(model, loss)")
    return ValueAndGrad(forward_of(model, loss))
