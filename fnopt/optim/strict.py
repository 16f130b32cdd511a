"""The strict way to load a state_dict: matched by name, refused whole if anything in it does not fit. Private.

torch matches by position and compares counts; it takes a state with parameters in another order, under other names, of
other shapes or dtypes, of another optimizer, or with parts missing, and goes wrong later or never says so.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import FnoptError, StateMismatchError, UsageError
from .groups import names_of
from .skeleton import Skeleton

_HINTS = frozenset({"params", "param_names", "foreach", "fused", "capturable", "differentiable", "initial_lr", "label"})
_MOST = 20


def matched(optimizer: Any, state_dict: Any, keep_hyperparameters: bool) -> dict[str, Any]:
    """The state_dict in this optimizer's order of groups and parameters, by their names.

    Raises StateMismatchError that lists every reason why it does not fit; nothing has changed then.
    """
    mine = names_of(optimizer)
    if mine is None:
        raise UsageError(
            "load_state_dict: strict=True matches by name, and this optimizer's parameters have none; make it with "
            "model.named_parameters()"
        )
    problems = list(_problems(optimizer, state_dict, mine, keep_hyperparameters))
    if problems:
        raise _refusal(optimizer, problems)
    its = {name: key for group in state_dict["param_groups"] for name, key in _named(group)}
    ids = {name: place for place, name in enumerate(name for names in mine for name in names)}
    state = {ids[name]: state_dict["state"][key] for name, key in its.items() if key in state_dict["state"]}
    other = {key: value for key, value in state_dict["state"].items() if key not in set(its.values())}
    groups = [dict(group) for group in (optimizer.param_groups if keep_hyperparameters else state_dict["param_groups"])]
    if not keep_hyperparameters:
        by_first = {tuple(sorted(group["param_names"])): group for group in groups}
        groups = [by_first[tuple(sorted(names))] for names in mine]
    groups = [
        {**group, "params": [ids[name] for name in names], "param_names": names}
        for group, names in zip(groups, mine, strict=True)
    ]
    return {"state": {**dict(sorted(state.items())), **other}, "param_groups": groups}


def _refusal(optimizer: Any, problems: list[str]) -> StateMismatchError:
    shown = [f"  {problem}" for problem in problems[:_MOST]]
    if len(problems) > _MOST:
        shown.append(f"  and {len(problems) - _MOST} more")
    kind = type(optimizer).__name__
    error = StateMismatchError(
        f"load_state_dict: this state does not fit this {kind}; nothing was changed:\n" + "\n".join(shown),
        item=problems[0],
        expected=f"a state_dict of {kind} with the same parameters",
        hint="strict=False loads by position as torch does",
    )
    error.problems = tuple(problems)
    return error


def _problems(optimizer: Any, state_dict: Any, mine: list[list[str]], keep: bool) -> Iterator[str]:
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= cast(Any, state_dict).keys():
        yield f"it is a {type(cast(object, state_dict)).__name__}, not a dict with state and param_groups"
        return
    groups, state = cast(Any, state_dict)["param_groups"], cast(Any, state_dict)["state"]
    if any("param_names" not in group for group in groups):
        yield "its parameters have no names (param_names); save it from an optimizer of model.named_parameters()"
        return
    yield from _group_problems(optimizer, groups, mine, keep)
    its = {name: key for group in groups for name, key in _named(group)}
    keys = list(its.values())
    if keys != list(range(len(keys))):
        yield f"its parameters are numbered {keys[:8]}, not in order: it was changed after it was saved"
    strangers = [key for key in state if isinstance(key, int) and key not in set(keys)]
    if strangers:
        yield f"it has states for {strangers[:8]}, which none of its parameters has for number"
    for place, names in enumerate(mine):
        group = optimizer.param_groups[place]
        for name, param in zip(names, group["params"], strict=True):
            if name in its and state:
                yield from _member_problems(optimizer, group, name, param, state.get(its[name]))


def _group_problems(optimizer: Any, groups: Any, mine: list[list[str]], keep: bool) -> Iterator[str]:
    wanted, found = [n for names in mine for n in names], [n for group in groups for n in group["param_names"]]
    for text, names in (("missing", set(wanted) - set(found)), ("unexpected", set(found) - set(wanted))):
        for name in sorted(names):
            yield f"{text}: {name}"
    if len(found) != len(set(found)):
        yield "it names a parameter twice"
    if any(len(group["param_names"]) != len(group["params"]) for group in groups):
        yield "its groups have more names than parameters, or fewer"
    layouts = [sorted(map(sorted, side)) for side in (mine, [group["param_names"] for group in groups])]
    if layouts[0] != layouts[1] and set(wanted) == set(found) and not keep:
        yield (
            f"its groups are {[len(names) for names in layouts[1]]} parameters, these {[len(n) for n in layouts[0]]}, "
            "or divided otherwise; keep_hyperparameters=True takes the state without the groups"
        )
    for place, group in enumerate(groups):
        yield from _number_problems(optimizer, place, group, keep)


def _number_problems(optimizer: Any, place: int, group: Mapping[str, Any], keep: bool) -> Iterator[str]:
    own = optimizer.param_groups[0]
    wanted, found = set(own) - _HINTS, set(group) - _HINTS
    if wanted - found:
        text = f"group {place} lacks {sorted(wanted - found)} and has {sorted(found - wanted)}"
        yield f"{text}: it was made by another optimizer" if found - wanted else text
        return
    decoupled = "decoupled_weight_decay"
    if decoupled in own and own[decoupled] != group[decoupled]:
        yield f"group {place} has {decoupled}={group[decoupled]}, expected {own[decoupled]}: Adam's is not AdamW's"
    if not keep:
        try:
            optimizer._rule({**own, **group, "params": own["params"]})
        except (FnoptError, TypeError, ValueError) as error:
            yield f"group {place}: {error}"


def _member_problems(optimizer: Any, group: Any, name: str, param: Tensor, found: Any) -> Iterator[str]:
    rule = optimizer._rule(group)
    skeleton = Skeleton.of(rule)
    with torch.no_grad():
        sample = torch.empty_like(param.detach(), device="meta")
        shared, members = skeleton.spread(rule.init_state({"p": sample}), ["p"])
        transform = optimizer._transform()
        once, more = Skeleton.of(transform).spread(transform.init_state({"p": sample}), ["p"])
    wanted: dict[str, Tensor] = {**once, **more["p"], **(shared if optimizer._counts else {}), **members["p"]}
    if not isinstance(found, Mapping):
        if wanted:
            yield f"{name}: no state (a parameter that never had a gradient? strict=False loads it)"
        return
    found = {key: value for key, value in cast(Mapping[str, Any], found).items() if value is not None}
    lacking, extra = sorted(wanted.keys() - found.keys()), sorted(map(str, found.keys() - wanted.keys()))
    if lacking or extra:
        parts = [f"lacks {lacking}" if lacking else "", f"has {extra}, which nobody asks for" if extra else ""]
        yield f"{name}: {' and '.join(part for part in parts if part)}"
    for key, like in wanted.items():
        if key in found:
            yield from _value_problems(name, key, like, found[key])


def _value_problems(name: str, key: str, like: Tensor, value: Any) -> Iterator[str]:
    if key == "step":
        if not _is_count(value):
            shown = cast(Any, value).tolist() if isinstance(value, Tensor) else value
            yield f"{name}: step is {shown!r}, expected a count of updates"
        return
    if not isinstance(value, Tensor):
        yield f"{name}: {key} is {type(value).__name__}, expected a tensor"
    elif value.shape != like.shape:
        yield f"{name}: {key} has shape {list(value.shape)}, expected {list(like.shape)}"
    elif value.dtype != like.dtype:
        yield f"{name}: {key} is {value.dtype}, expected {like.dtype}"
    elif not bool(torch.isfinite(value).all()):
        yield f"{name}: {key} has entries that are not finite"


def _is_count(value: Any) -> bool:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    return isinstance(value, int | float) and value >= 0 and math.isfinite(value) and value == int(value)


def _named(group: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from zip(group["param_names"], group["params"], strict=False)
