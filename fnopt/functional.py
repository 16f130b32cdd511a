"""A loss as a pure function of params and buffers, also where it is written with a module.

A loss returns `(loss_sum, weight)` or `(loss_sum, weight, aux)`: a sum over the batch, what it is a sum over (tokens,
samples), and other sums to report.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ._torch import version
from .batch import blame_leaf
from .errors import DistributedModuleError, LossError, StructureError, UsageError
from .record import record
from .tensors import wide
from .types import Tensors

LossOutput: TypeAlias = tuple[Tensor, float | Tensor] | tuple[Tensor, float | Tensor, Mapping[str, float | Tensor]]
Outputs: TypeAlias = tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]  # loss, weight, aux, buffers

# what a step and `evaluate` report themselves: an aux of that name would take its place
_TAKEN = {"loss", "weight", "grad_norm", "clip_coef", "lr", "loss_scale", "skipped", "dropped"}
_DISTRIBUTED = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}


@record
class Forward:
    """A loss as a pure function of params and buffers: `(params, buffers, batch) -> (loss, weight, aux, buffers)`.

    slots     module path of every parameter and buffer -> its canonical name; tied ones share a name. Calling by slot
              keeps tied weights and shared submodules right, where functional_call's own tie_weights corrupts the live
              weights of a submodule that is reached by two paths (pytorch #164759)
    mutable   names of the buffers, which a forward pass may change: it gets a copy
    """

    loss: Callable[..., Any]
    model: nn.Module | None
    slots: dict[str, str]
    mutable: tuple[str, ...]

    def __call__(self, params: Tensors, buffers: Tensors, batch: Any) -> Outputs:
        read_only = [*params, *(name for name in buffers if name not in self.mutable)]
        values = {**buffers, **params}
        before = [version(values[name]) for name in read_only]
        try:
            outputs = self._call(params, buffers, values, batch)
        except RuntimeError as error:
            blame_leaf(error, batch, params)
            raise
        written = [name for name, old in zip(read_only, before, strict=True) if version(values[name]) != old]
        if written:
            raise UsageError(
                f"value_and_grad: the forward pass wrote into {written[:5]} in place, and so into the state, expected "
                "it to leave parameters alone; change them in the optimizer or between steps (nn.Embedding writes "
                "unless max_norm is None)"
            )
        return outputs

    def _call(self, params: Tensors, buffers: Tensors, held: Tensors, batch: Any) -> Outputs:
        if self.model is None:
            return (*_checked(self.loss(dict(params), batch)), dict(buffers))
        values = dict(held)
        values.update({name: values[name].clone() for name in self.mutable if name in values})
        lost = sorted(set(self.slots.values()) - values.keys())
        if lost:
            raise StructureError(
                f"value_and_grad: the state has no {lost[:5]} of {type(self.model).__name__}; make the state with "
                "step.init_state(model)"
            )
        view = _Caller(self.model, self.loss, self.mutable)
        named = {f"model.{slot}": values[name] for slot, name in self.slots.items()}
        output, changed = functional_call(view, named, (batch,), tie_weights=False)
        for name, new in changed.items():
            if new.shape != values[name].shape or new.dtype != values[name].dtype:
                raise StructureError(
                    f"value_and_grad: the forward pass made the buffer {name!r} {_kind(new)}, expected "
                    f"{_kind(values[name])}: a state keeps its structure; keep what changes shape out of the buffers"
                )
        return (*_checked(output), {**buffers, **changed})


class _Caller(nn.Module):
    """Runs the loss on the model while functional_call has its tensors swapped; the model keeps all its methods."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any], mutable: tuple[str, ...]):
        super().__init__()
        self.model, self.call, self.mutable = model, loss, mutable

    def forward(self, batch: Any) -> tuple[Any, dict[str, Tensor]]:
        output = self.call(self.model, batch)
        return output, {name: self.model.get_buffer(name) for name in self.mutable}


def forward_of(model: nn.Module, loss: Callable[..., Any]) -> Forward:
    """The loss of a module as a pure function."""
    for module in model.modules():
        wrappers = _DISTRIBUTED.intersection(cls.__name__ for cls in type(module).__mro__)
        if wrappers:
            raise DistributedModuleError(
                f"value_and_grad: the model holds a {min(wrappers)}, whose hooks do not run on the functional path: "
                "its gradients would not be reduced; pass the bare module (model.module) and put all_reduce(…) around "
                "accumulate, or call loss.backward() on it and optimizer.update on p.grad"
            )
    names: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    names.update({id(b): name for name, b in model.named_buffers()})
    slots: dict[str, str] = {}
    for path, module in cast(Iterable[tuple[str, nn.Module]], model.named_modules()):
        held: dict[str, Tensor] = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        held.update(module.named_buffers(recurse=False, remove_duplicate=False))
        for attribute, tensor in held.items():
            slots[f"{path}.{attribute}" if path else attribute] = names[id(tensor)]
    return Forward(loss, model, slots, tuple(name for name, _ in model.named_buffers()))


def _checked(output: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The parts of what a loss returned, as tensors: (loss, weight, aux), float32 or wider."""
    if not isinstance(output, tuple) or len(cast(tuple[Any, ...], output)) not in (2, 3):
        kind = _kind(cast(object, output))
        kind += f" of {len(cast(tuple[Any, ...], output))}" if isinstance(output, tuple) else ""
        raise LossError(
            f"loss: returned {kind}, expected (loss_sum, weight) or (loss_sum, weight, aux); for a mean over n samples "
            'return (mean * n, n), or build the sum with reduction="sum"'
        )
    loss, weight, *rest = cast(tuple[Any, ...], output)
    if not isinstance(loss, Tensor) or loss.ndim or not loss.dtype.is_floating_point:
        fix = "call .sum() on it" if isinstance(loss, Tensor) else "return the tensor itself, without .item()"
        raise LossError(f"loss: the loss sum is {_kind(loss)}, expected a 0-d floating-point tensor; {fix}")
    loss = loss.to(wide(loss.dtype))
    counted = _number("the weight", weight, loss)
    if isinstance(weight, int | float) and weight < 0:
        raise LossError(f"loss: the weight is {weight}, expected the number of tokens or samples, >= 0")
    aux = cast(Mapping[str, Any], rest[0] if rest else {})
    if not isinstance(cast(object, aux), Mapping):
        raise LossError(f'loss: aux is {_kind(aux)}, expected a dict of sums to report, such as {{"hits": hits.sum()}}')
    if _TAKEN & aux.keys():
        raise LossError(f"loss: aux has {sorted(_TAKEN & aux.keys())}, which a step reports itself; use another name")
    return loss, counted, {name: _number(f"aux[{name!r}]", value, loss) for name, value in aux.items()}


def _number(name: str, value: Any, loss: Tensor) -> Tensor:
    if isinstance(value, Tensor) and not value.ndim:
        return value.to(loss.device, loss.dtype)
    if isinstance(value, int | float):
        return torch.full((), value, dtype=loss.dtype, device=loss.device)
    raise LossError(f"loss: {name} is {_kind(value)}, expected a number or a 0-d tensor")


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        grad = "" if value.requires_grad else ", requires_grad False"
        return f"a tensor of shape {list(value.shape)} and {value.dtype}{grad}"
    return f"a {type(value).__name__}"
