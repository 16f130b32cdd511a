"""A TrainState as a `.pt` that torch reads alone: the weights for a module, the memory for an optimizer of torch."""

import inspect
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from .. import optim
from ..errors import StructureError, UsageError
from ..rules.describe import HasInner
from ..rules.partition import Freeze, Partition
from ..state import TrainState
from ..tensors import tensor_map
from ..transforms.chain import ChainedOptimizer, check_pure
from ..types import Optimizer
from .document import JSON, plain
from .fs import DISK, Fs, Output, write_atomically
from .names import flatten

_KINDS: dict[type, Any] = {
    kind.pure: kind
    for kind in (optim.AdamW, optim.Adam, optim.SGD, optim.RMSprop, optim.Adagrad, optim.Adafactor, optim.Muon)
}


def export_torch(
    path: str | os.PathLike[str],
    state: TrainState,
    *,
    model: nn.Module | None = None,
    optimizer: Optimizer[Any] | None = None,
    scheduler: Mapping[str, JSON] | None = None,
    epoch: int = 0,
    best_val_loss: float = math.inf,
    fs: Fs = DISK,
) -> Path:
    """Write a `.pt` in torch's layout, atomically: model, optimizer, scheduler, epoch, step, best_val_loss.

    model      its names and order, tied ones twice, without buffers that it does not save; None: every param and buffer
    optimizer  the pure one of the run (`step.optimizer`). Each update rule in it becomes a param group, its schedules
               the numbers that they have now; transforms and averages have no place in torch, and are left out
    scheduler  a state_dict of yours; `step` is the state's position

    `torch.load(path, weights_only=True)` reads it, and `load_checkpoint(path, like=state)` does.

    >>> import fnopt, tempfile
    >>> folder, layer = tempfile.TemporaryDirectory(), nn.Linear(2, 1)
    >>> state = TrainState.of(params := fnopt.params_of(layer), opt_state=fnopt.AdamW().init_state(params))
    >>> path = export_torch(Path(folder.name, "a.pt"), state, model=layer, optimizer=fnopt.AdamW())
    >>> torch.optim.AdamW(layer.parameters()).load_state_dict(torch.load(path, weights_only=True)["optimizer"])
    >>> folder.cleanup()

    Raises UsageError for an optimizer that torch does not have, StructureError for a model or optimizer of other names,
    CheckpointWriteError.
    """
    leaves = flatten("export_torch", state)
    content = {
        "model": _weights(state) if model is None else _weights_of(model, state),
        "optimizer": None if optimizer is None else _optimizer(optimizer, state),
        "scheduler": None if scheduler is None else plain("scheduler", scheduler),
        "epoch": epoch,
        "step": state.position,
        "best_val_loss": float(best_val_loss),
    }

    def fill(output: Output) -> None:
        torch.save(content, cast(Any, _Sink(output)))

    write_atomically(path, fill, sum(leaf.nbytes for leaf in leaves.values() if leaf is not None), fs)
    return Path(path)


@attrs.frozen
class _Sink:
    """As much of a file as torch.save asks for."""

    output: Output

    def write(self, data: bytes) -> int:
        self.output.write(data)
        return len(data)

    def flush(self) -> None:
        pass


def _weights(state: TrainState) -> dict[str, Tensor]:
    return {name: _own(leaf) for name, leaf in {**state.params, **state.buffers}.items()}


def _weights_of(model: nn.Module, state: TrainState) -> dict[str, Any]:
    """What `model.state_dict()` would hold with the weights of the state."""
    values, named = _weights(state), [*model.named_parameters(), *model.named_buffers()]
    names = {id(tensor): name for name, tensor in named}  # of a tied tensor the one name that a state has
    own = set(names.values())
    missing, extra = sorted(own - values.keys()), sorted(values.keys() - own)
    if missing or extra:
        raise StructureError(
            f"export_torch: this state is not of this {type(model).__name__}: only in the model {missing[:5]}, only in "
            f"the state {extra[:5]}; give the module that the state was made of"
        )
    stored: dict[str, Any] = model.state_dict(keep_vars=True)
    return {name: values[names[id(entry)]] if id(entry) in names else entry for name, entry in stored.items()}


def _optimizer(optimizer: Optimizer[Any], state: TrainState) -> dict[str, Any]:
    """The state_dict of torch's optimizer, made by the drop-in for it, over copies of the params."""
    check_pure("export_torch", optimizer, Optimizer)
    try:
        rules = list(_rules(optimizer, state.opt_state, list(state.params)))
    except (KeyError, IndexError, TypeError):
        raise StructureError(
            f"export_torch: opt_state is not of this {type(optimizer).__name__}, expected what its init_state makes; "
            "give the optimizer of the run"
        ) from None
    kinds = {_kind(rule) for rule, _, _ in rules}
    if len(kinds) != 1:
        listed = sorted(kind.__name__ for kind in kinds)
        raise UsageError(f"export_torch: one optimizer of torch has one rule, got {listed}; leave `optimizer` out")
    params = {name: _own(state.params[name]) for _, _, owned in rules for name in owned}
    groups = [
        {"params": [(name, params[name]) for name in owned], **_numbers(rule, memory)} for rule, memory, owned in rules
    ]
    live = next(iter(kinds))(groups)
    memories = [memory for _, memory, _ in rules]
    live.load_functional(
        {f"group {place}": memory for place, memory in enumerate(memories)} if len(rules) > 1 else memories[0], params
    )
    return tensor_map(torch.Tensor.cpu, live.state_dict())


def _rules(optimizer: Any, memory: Any, names: list[str]) -> Iterator[tuple[Any, Any, list[str]]]:
    """The update rules inside an optimizer that own a parameter, with what they remember and the names they own."""
    if not isinstance(optimizer, HasInner):
        if names:
            yield optimizer, memory, names
        return
    for tag, part, owned in optimizer.inner(names):
        yield from _rules(part, _memory_of(optimizer, tag, memory), owned)


def _kind(rule: Any) -> Any:
    """The drop-in for a rule."""
    if type(rule) not in _KINDS:
        known = sorted(kind.__name__ for kind in _KINDS)
        raise UsageError(
            f"export_torch: torch has no {type(rule).__name__}, expected one of {known}; leave `optimizer` out to "
            "export the weights alone"
        )
    return _KINDS[type(rule)]


def _memory_of(wrapper: Any, tag: str, memory: Any) -> Any:
    if isinstance(wrapper, Freeze):
        return memory
    if isinstance(wrapper, Partition):
        return memory[tag]
    return memory[list(memory)[-1] if isinstance(wrapper, ChainedOptimizer) else "optimizer"]


def _numbers(rule: Any, memory: Any) -> dict[str, Any]:
    """The hyperparameters of a param group: what a rule has now."""
    fields = attrs.fields(cast(Any, type(rule)))
    values = {field.name: _now(getattr(rule, field.name), memory["step"]) for field in fields}
    torchs = inspect.signature(_KINDS[type(rule)].torch_class).parameters
    for field in fields:
        if field.name not in torchs:
            if values[field.name] != field.default:
                raise UsageError(
                    f"export_torch: torch's {type(rule).__name__} has no {field.name}, got {values[field.name]!r}; "
                    "leave `optimizer` out to export the weights alone"
                )
            del values[field.name]
    return values


def _now(value: Any, step: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(_now(part, step) for part in cast("tuple[Any, ...]", value))
    value = value(step) if callable(value) else value
    return value.item() if isinstance(value, Tensor) else value


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU that drags no larger memory along."""
    return tensor.detach().to("cpu", copy=True).resolve_conj().resolve_neg().contiguous()
