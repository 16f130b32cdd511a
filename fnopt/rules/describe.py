"""`describe`: which parameter is updated by what."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast, runtime_checkable

import attrs
from torch import Tensor

from ..record import evolve
from ..tensors import at
from ..types import Optimizer, Tensors


@runtime_checkable
class HasInner(Protocol):
    """An Optimizer made of others: `(label, optimizer, names of its parameters)` for each."""

    def inner(self, names: Iterable[str], /) -> list[tuple[str, Optimizer[Any], list[str]]]: ...


def leaf_rules(optimizer: Any, names: Iterable[str], label: str = "") -> list[tuple[str, Any, list[str]]]:
    """The update rules inside an optimizer, each with its label (joined by "/") and the parameters it owns."""
    if not isinstance(optimizer, HasInner):
        return [(label, optimizer, list(names))]
    rules: list[tuple[str, Any, list[str]]] = []
    for tag, part, owned in optimizer.inner(names):
        rules += leaf_rules(part, owned, f"{label}/{tag}" if label and tag else label or tag)
    return rules


def map_inner(optimizer: Any, fn: Callable[[Any], Any]) -> Any:
    """A wrapper with `fn` of every optimizer that it holds; a rule as it is."""
    if not attrs.has(cast(Any, type(optimizer))):
        return optimizer
    changes: dict[str, Any] = {}
    for field in attrs.fields(cast(Any, type(optimizer))):
        value = getattr(optimizer, field.name)
        if isinstance(value, Optimizer):
            changes[field.alias or field.name] = fn(value)
        elif isinstance(value, dict) and any(isinstance(item, Optimizer) for item in cast(Any, value).values()):
            changes[field.alias or field.name] = {key: fn(item) for key, item in cast(Any, value).items()}
    return evolve(optimizer, **changes) if changes else optimizer


def learning_rates(optimizer: Any, step: Tensor) -> dict[str, float | Tensor]:
    """The learning rate of each rule at this step: `lr` of the first one, `lr/<label>` of those with a label."""
    rates: dict[str, float | Tensor] = {}
    for label, rule, _ in leaf_rules(optimizer, ()):
        if hasattr(rule, "lr"):
            (rate,) = at(step, rule.lr)
            rates.setdefault("lr", rate)
            if label:
                rates[f"lr/{label}"] = rate
    return rates


def describe(optimizer: Optimizer[Any], params: Tensors) -> str:
    """A table of who updates what: each rule with its hyperparameters, then its parameters; last, the frozen ones.

    >>> from fnopt import Adam, freeze
    >>> print(describe(freeze(Adam(0.1), "b"), {"w": torch.zeros(2, 3), "b": torch.zeros(3)}))
    all: Adam(lr=0.1, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, maximize=False)
      1 tensor, 6 numbers
        w  [2, 3]  float32
    frozen: never updated
      1 tensor, 3 numbers
        b  [3]  float32
    """
    lines: list[str] = []
    left = dict(params)
    for label, rule, names in leaf_rules(optimizer, params):
        lines.append(f"{label or 'all'}: {rule!r}")
        lines += _owned({name: left.pop(name) for name in names})
    if left:
        lines += ["frozen: never updated", *_owned(left)]
    return "\n".join(lines)


def _owned(params: Tensors) -> list[str]:
    width = max((len(name) for name in params), default=0)
    total = sum(leaf.numel() for leaf in params.values())
    plural = "" if len(params) == 1 else "s"
    return [
        f"  {len(params)} tensor{plural}, {total:,} numbers",
        *(
            f"    {name:<{width}}  {list(leaf.shape)}  {str(leaf.dtype).removeprefix('torch.')}"
            for name, leaf in params.items()
        ),
    ]
