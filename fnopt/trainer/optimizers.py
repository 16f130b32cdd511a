"""Any optimizer as a pure one: torch's and the drop-ins are converted, with what they remember."""

from collections.abc import Callable, Mapping, Sequence
from glob import escape
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from ..errors import HyperparameterError, StructureError
from ..optim import TorchOptimizer, from_torch, to_torch
from ..optim.convert import RULES
from ..record import evolve
from ..rules.describe import leaf_rules, map_inner
from ..rules.partition import freeze
from ..state import params_of
from ..tensors import tensor_map
from ..transforms.chain import ChainedOptimizer, chain, check_pure
from ..transforms.clip import ClipNorm
from ..types import Optimizer


@attrs.frozen
class Pure:
    """A pure optimizer, and what it remembers already: None if it begins."""

    optimizer: Optimizer[Any]
    opt_state: Any = None

    def begun(self, params: Mapping[str, Tensor]) -> Any:
        """Its state for these params, complete: what was remembered, in the order of a fresh one."""
        fresh: Any = self.optimizer.init_state(params)
        return fresh if self.opt_state is None else _arranged(fresh, self.opt_state)


def pure_of(optimizer: Any, model: nn.Module) -> Pure:
    """The pure optimizer, with its state, of one of torch's or of fnopt.optim; a pure one as it is.

    Parameters go by their names in the model. Those that the optimizer does not have are frozen, as with torch.

    >>> layer = nn.Linear(1, 1)
    >>> pure_of(torch.optim.SGD(layer.parameters(), lr=0.1), layer).optimizer.lr
    0.1

    Raises UsageError and StructureError for what is no optimizer, or not of this model.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        check_pure("Trainer", optimizer, Optimizer)
        return Pure(optimizer)
    owned, trained = _named(optimizer, model), params_of(model)
    pure, opt_state, params = owned.functional()
    if not params.keys() <= trained.keys():
        raise StructureError(
            f"Trainer: the optimizer has {sorted(params.keys() - trained.keys())[:5]}, which this "
            f"{type(model).__name__} does not train; make it of named parameters: model.named_parameters()"
        )
    idle = [escape(name) for name in trained if name not in params]
    return Pure(freeze(pure, *idle) if idle else pure, opt_state)


def _named(optimizer: Any, model: nn.Module) -> Any:
    """A drop-in for the optimizer whose groups hold what the model trains, by its names."""
    if isinstance(optimizer, TorchOptimizer) and not isinstance(optimizer, RULES):
        return optimizer
    names = {id(param): name for name, param in model.named_parameters()}
    own = from_torch(to_torch(optimizer) if isinstance(optimizer, TorchOptimizer) else optimizer)
    for place, group in enumerate(own.param_groups):
        lost = [list(param.shape) for param in group["params"] if id(param) not in names]
        if lost:
            raise StructureError(
                f"Trainer: group {place} of the optimizer has parameters of shapes {lost[:5]} that are not of this "
                f"{type(model).__name__}; make it of model.parameters(), after the model is complete"
            )
        group["params"] = [param for param in group["params"] if param.requires_grad]
        group["param_names"] = [names[id(param)] for param in group["params"]]
    return own


def clipped(pure: Pure, max_grad_norm: float | None) -> Pure:
    """The optimizer behind a bound on the global norm."""
    if max_grad_norm is None:
        return pure
    inner = pure.optimizer
    if isinstance(inner, ChainedOptimizer) and any(isinstance(part, ClipNorm) for part in inner.transforms):
        raise HyperparameterError(
            f"Trainer: max_grad_norm={max_grad_norm}, and the optimizer has a ClipNorm already, expected one of them; "
            "leave max_grad_norm out"
        )
    outer = chain(ClipNorm(max_grad_norm), inner)
    if pure.opt_state is None or isinstance(inner, ChainedOptimizer):
        return Pure(outer, pure.opt_state)
    return Pure(outer, {type(inner).__name__: pure.opt_state})


def rules_of(optimizer: Any) -> list[Any]:
    """The update rules inside, in their order: those of groups, say."""
    return [rule for _, rule, _ in leaf_rules(optimizer, ())]


def with_values(optimizer: Any, values: Sequence[Mapping[str, Any]]) -> Any:
    """The optimizer whose rules, in the order of `rules_of`, have these hyperparameters."""
    given = iter(values)

    def change(part: Any) -> Any:
        changed = map_inner(part, change)
        return evolve(part, **next(given)) if changed is part else changed

    return change(optimizer)


def _arranged(fresh: Any, known: Any) -> Any:
    """`known` in the structure of `fresh`, whose parts stay where nothing is known."""
    if not isinstance(fresh, dict):
        return tensor_map(_copied_like(fresh), known)
    parts = cast(dict[str, Any], fresh)
    return {key: _arranged(part, known[key]) if key in known else part for key, part in parts.items()}


def _copied_like(fresh: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda leaf: leaf.detach().to(fresh.device, fresh.dtype, copy=True)
