"""Optimizers by name, and the usual groups with and without weight decay."""

import inspect
from typing import Any, cast

from torch import nn

from ..errors import HyperparameterError, StructureError, UsageError
from ..rules.labels import decay_labels
from ..rules.lion import Lion
from .adapter import TorchOptimizer
from .convert import RULES

_CLASSES: dict[str, Any] = {kind.__name__.lower(): kind for kind in RULES}
_PURE: dict[str, Any] = {"lion": Lion}


def create_optimizer(name: str, params: Any, **hyperparameters: Any) -> TorchOptimizer:
    """The optimizer of that name ("adamw", "sgd", …; upper or lower case) over these parameters.

    >>> layer = nn.Linear(2, 1)
    >>> create_optimizer("adamw", layer.parameters(), lr=1e-3, weight_decay=0.1).param_groups[0]["weight_decay"]
    0.1

    Raises HyperparameterError, a ValueError, for a name that is not known, and for a hyperparameter that this optimizer
    does not have; both list the ones it knows.
    """
    known = {**_CLASSES, **_PURE}
    key = str(name).lower()
    if key not in known:
        raise HyperparameterError(f"create_optimizer: unknown optimizer {name!r}; known are {sorted(known)}")
    takes = [field for field in inspect.signature(known[key]).parameters if field != "params"]
    unknown = sorted(hyperparameters.keys() - set(takes))
    if unknown:
        raise HyperparameterError(f"create_optimizer: {key} has no {unknown}; it takes {takes}")
    if key in _PURE:
        return TorchOptimizer(params, _PURE[key](**hyperparameters))
    return _CLASSES[key](params, **hyperparameters)


def configure_optimizer(
    model: nn.Module,
    optimizer_type: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    *,
    decay_embeddings: bool = True,
    **hyperparameters: Any,
) -> TorchOptimizer:
    """An optimizer for a model, with weight decay for matrices and convolutions only.

    Biases, all else below 2 dimensions, and parameters of normalization layers are in a group without decay; with
    `decay_embeddings=False` embeddings are, too (`fnopt.decay_labels` has the rule). Only parameters that require grad
    count; each is in one group, a tied one once. `describe()` of the result prints who got what.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    >>> optimizer = configure_optimizer(model, lr=1e-3, weight_decay=0.1)
    >>> [(group["weight_decay"], group["param_names"]) for group in optimizer.param_groups]
    [(0.1, ['0.weight']), (0.0, ['0.bias', '1.weight', '1.bias'])]

    Raises what `create_optimizer` raises, UsageError for something that is no module, StructureError for a model
    without a parameter that requires grad.
    """
    if not isinstance(cast(object, model), nn.Module):
        raise UsageError(f"configure_optimizer: got {type(model).__name__}, expected a module")
    labels = decay_labels(model, decay_embeddings=decay_embeddings)
    if not labels:
        raise StructureError(f"configure_optimizer: {type(model).__name__} has no parameter that requires grad")
    named = dict(model.named_parameters())
    groups = [
        {"params": [(name, named[name]) for name, tag in labels.items() if tag == wanted], "weight_decay": decay}
        for wanted, decay in (("decay", weight_decay), ("no_decay", 0.0))
    ]
    used = [group for group in groups if group["params"]]
    return create_optimizer(optimizer_type, used, lr=lr, weight_decay=weight_decay, **hyperparameters)
