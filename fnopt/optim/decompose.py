"""A pure optimizer, taken apart for param groups: transforms over all of them, and one optimizer per label. Private."""

from collections.abc import Mapping
from typing import Any, cast

import attrs
from torch import Tensor

from ..errors import UsageError
from ..record import evolve
from ..rules.describe import leaf_rules, map_inner
from ..rules.partition import Freeze, Partition
from ..transforms.chain import ChainedOptimizer, ChainedTransform


@attrs.frozen
class Parts:
    """`transform` sees the gradients of all groups at once; `labels` tells whose optimizer updates a parameter.

    A parameter that is frozen has no label; without labels, every parameter is the one optimizer's, under "".
    """

    transform: ChainedTransform
    optimizers: dict[str, Any]
    labels: dict[str, str] | None


def decompose(optimizer: Any, names: list[str] | None) -> Parts:
    """The parts of an optimizer for parameters of these names; None where they have none."""
    if isinstance(optimizer, ChainedOptimizer):
        inner = decompose(optimizer.optimizer, names)
        if not inner.transform.transforms:
            return attrs.evolve(inner, transform=ChainedTransform(optimizer.transforms))
    if isinstance(optimizer, Partition | Freeze):
        if names is None:
            raise UsageError(
                f"TorchOptimizer: {type(optimizer).__name__.lower()} goes by the names of parameters, which "
                "model.parameters() does not have; give it model.named_parameters()"
            )
        kept = {tag: (part, owned) for tag, part, owned in optimizer.inner(names)}
        optimizer.check_names(names)
        return Parts(
            ChainedTransform(()),
            {tag: part for tag, (part, _) in kept.items()},
            {name: tag for tag, (_, owned) in kept.items() for name in owned},
        )
    return Parts(ChainedTransform(()), {"": optimizer}, None)


def leaf_of(optimizer: Any) -> Any:
    """The one update rule inside an optimizer; None where there are several, as inside a nested partition."""
    rules = leaf_rules(optimizer, ())
    return rules[0][1] if len(rules) == 1 else None


def fields_of(optimizer: Any) -> dict[str, Any]:
    """The hyperparameters that a param group of this optimizer carries: those of its update rule."""
    rule = leaf_of(optimizer)
    return {} if rule is None else {name: getattr(rule, name) for name in _names(rule)}


def with_fields(optimizer: Any, values: Mapping[str, Any]) -> Any:
    """The optimizer whose update rule has these hyperparameters."""
    changed = map_inner(optimizer, lambda part: with_fields(part, values))
    if changed is not optimizer:
        return changed
    own = {name: values[name] for name in _names(optimizer) if name in values}
    return evolve(optimizer, **own) if own else optimizer


def _names(rule: Any) -> list[str]:
    kind = cast(Any, type(rule))
    return [field.name for field in attrs.fields(kind) if field.init] if attrs.has(kind) else []


def listed(params: Any) -> tuple[Any, list[str] | None]:
    """The params as given, but to be gone through twice, and the names of all of them, where they have names."""
    if isinstance(params, Tensor | set):
        return cast(Any, params), None
    groups, entries = list[Any](params), list[Any]()
    for place, item in enumerate(groups):
        if isinstance(item, dict):
            groups[place] = group = {**cast(dict[str, Any], item), "params": _entries(item["params"])}
            entries += [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        else:
            entries.append(item)
    return groups, [entry[0] for entry in entries if isinstance(entry, tuple)] or None


def _entries(params: Any) -> Any:
    return cast(Any, params) if isinstance(params, Tensor | set) else list(params)


def labelled(params: Any, parts: Parts) -> list[dict[str, Any]]:
    """One group per label, with the hyperparameters of its own rule; frozen parameters are in none."""
    if any(isinstance(item, dict) for item in params):
        raise UsageError(
            "TorchOptimizer: a partition makes the groups itself, one per label; give it model.named_parameters()"
        )
    groups: list[dict[str, Any]] = []
    for tag, part in parts.optimizers.items():
        owned = [(name, param) for name, param in params if (parts.labels or {}).get(name) == tag]
        if owned:
            groups.append({"params": owned, "label": tag, **fields_of(part)})
    return groups
