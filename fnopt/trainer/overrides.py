"""Other hyperparameters for a run that goes on: checked against the rules that it has, and written into its files."""

from collections.abc import Mapping
from typing import Any, cast

import attrs
from torch import Tensor

from .._torch import tree_flatten
from ..errors import HyperparameterError, StructureError, UsageError
from ..record import evolve, same
from ..rules.describe import leaf_rules
from ..schedules.plateaus import Plateau
from ..types import Tensors
from .optimizers import with_values
from .parts import Override


def overridden(optimizer: Any, changes: Override, params: Tensors) -> Any:
    """The optimizer whose rules have these hyperparameters: of all rules, or by "name/label" of one.

    >>> from fnopt import AdamW
    >>> overridden(AdamW(1e-3), {"lr": 1e-4, "betas": [0.9, 0.99]}, {"w": torch.ones(1)})
    AdamW(lr=0.0001, betas=(0.9, 0.99), eps=1e-08, weight_decay=0.01, amsgrad=False, maximize=False)

    Raises UsageError for a value that no file could hold, HyperparameterError for a name that no rule has, one that is
    not the same in all rules, and a value that its rule refuses; StructureError where the rule would need other memory.
    """
    rules = [(label, rule) for label, rule, _ in leaf_rules(optimizer, ())]
    values: list[dict[str, Any]] = [{} for _ in rules]
    for name, value in changes.items():
        for place in _places(name, rules):
            values[place][name.partition("/")[0]] = _plain(name, value)
    made = with_values(optimizer, values)
    if _memory(made, params) != _memory(optimizer, params):
        raise StructureError(
            f"load_checkpoint: override={dict(changes)} needs other memory than the file has, expected the same; begin "
            "a new run with that optimizer"
        )
    return made


def _places(name: str, rules: list[tuple[str, Any]]) -> list[int]:
    """Which rules a name means."""
    field, slash, label = name.partition("/")
    having = [place for place, (_, rule) in enumerate(rules) if field in _fields(rule)]
    meant = [place for place in having if not slash or rules[place][0] == label]
    if not meant:
        known = sorted({f"{one}/{label}" if label else one for label, rule in rules for one in _fields(rule)})
        raise HyperparameterError(f"load_checkpoint: override has {name!r}, expected one of {', '.join(known)}")
    found = {f"{field}/{rules[place][0]}": getattr(rules[place][1], field) for place in meant}
    first = next(iter(found.values()))
    if not all(same(value, first) for value in found.values()):
        raise HyperparameterError(
            f"load_checkpoint: override has {name!r}, which is not the same in all rules ({_listed(found)}), expected "
            f"the names of those to change, such as {next(iter(found))!r}"
        )
    return meant


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in found.items())


def _fields(rule: Any) -> list[str]:
    return [field.name for field in attrs.fields(cast(Any, type(rule)))] if attrs.has(cast(Any, type(rule))) else []


def _plain(name: str, value: Any) -> Any:
    """A value as a record takes it; JSON makes lists of tuples."""
    parts = list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]
    if not parts or any(not isinstance(part, bool | int | float) for part in parts):
        raise UsageError(
            f"load_checkpoint: override has {name}={value!r}, expected a number, which checkpoints can hold; give "
            "anything else to Trainer(optimizer=…)"
        )
    return tuple(parts) if isinstance(value, list | tuple) else value


def _memory(optimizer: Any, params: Tensors) -> Any:
    """The structure of what an optimizer remembers, from tensors without memory."""
    leaves, structure = tree_flatten(optimizer.init_state({name: leaf.to("meta") for name, leaf in params.items()}))
    return structure, [(leaf.shape, leaf.dtype) for leaf in cast("list[Tensor]", leaves)]


def with_override(step: Any, changes: Override, params: Tensors, plateau: Plateau | None) -> Any:
    """The step, whose optimizer has these hyperparameters."""
    if plateau and any(name.partition("/")[0] == "lr" for name in changes):
        raise UsageError(
            "load_checkpoint: override has lr, which follows a plateau, expected none; set it in its state, "
            'trainer.state.extra["plateau/lr"]'
        )
    return evolve(step, optimizer=overridden(step.optimizer, changes, params)) if changes else step
