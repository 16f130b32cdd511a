"""Updates by the pure functions as they are, on dicts by name: for rules that look at whole parameters or at all of
them, for traces and for gradients through a step. Private to the adapters.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import memory_of, traced
from ..rules.describe import HasInner
from .groups import labels_of
from .rule import Rule
from .skeleton import Skeleton

Pair = tuple[Tensor, Tensor]  # a parameter and its gradient
State = dict[str, Any]


def update(optimizer: Any, rule: Rule, live: Sequence[Pair]) -> None:
    """One update of these parameters, those together that the rule must see together."""
    if not live:
        return
    skeleton, known = rule.skeleton, _names(optimizer)
    for bunch in _bunches(optimizer, rule, live):
        names = [known[id(param)] for param, _ in bunch]
        states: list[State] = [optimizer.state.get(param, {}) for param, _ in bunch]
        params = {name: _entered(param) for name, (param, _) in zip(names, bunch, strict=True)}
        grads = {name: _entered(grad) for name, (_, grad) in zip(names, bunch, strict=True)}
        shared = {path: _shared(optimizer, states[0], path) for path in skeleton.shared}
        held = [{path: _entered(state[path]) for path in skeleton.memories if path in state} for state in states]
        tree = skeleton.tree(shared, dict(zip(names, held, strict=True)))
        new, after = rule.pure.update(grads, tree, params)
        once, members = skeleton.spread(after, names)
        writes = [(param, new[name]) for name, (param, _) in zip(names, bunch, strict=True)]
        for name, state in zip(names, states, strict=True):
            writes += [(state[path], leaf) for path, leaf in {**members[name], **once}.items() if path in state]
        _write(writes, [*params.values(), *(leaf for member in held for leaf in member.values())])


def _write(writes: Sequence[tuple[Tensor, Tensor]], given: Sequence[Tensor]) -> None:
    """The new values over the old; one that is itself what the rule was given is read before anything is written."""
    where: Any = id if traced() else _memory  # under vmap a tensor has no memory to ask for
    old = {where(leaf) for leaf in given}
    news = [new.clone() if where(new) in old else new for _, new in writes]
    for (leaf, _), new in zip(writes, news, strict=True):
        leaf.copy_(new)


def _memory(leaf: Any) -> int:
    return memory_of(leaf.to_local() if hasattr(leaf, "to_local") else leaf)


def _names(optimizer: Any) -> dict[int, str]:
    """What rules and transforms call a parameter, by its id."""
    groups = zip(optimizer.param_groups, labels_of(optimizer), strict=True)
    return {id(p): name for group, names in groups for p, name in zip(group["params"], names, strict=True)}


def update_entries(optimizer: Any, rule: Rule, param: Tensor, grad: Tensor) -> None:
    """One update of those entries of a parameter that a sparse gradient names."""
    skeleton = rule.skeleton
    state: State = optimizer.state.get(param, {})
    at = tuple(grad.indices())
    picked = {path: state[path][at] for path in skeleton.memories if path in state}
    shared = {path: _shared(optimizer, state, path) for path in skeleton.shared}
    tree = skeleton.tree(shared, {"p": picked})
    new, after = rule.pure.update({"p": grad.values()}, tree, {"p": param.detach()[at]})
    once, members = skeleton.spread(after, ["p"])
    param.detach()[at] = new["p"]
    for path, leaf in members["p"].items():
        state[path][at] = leaf
    for path, leaf in once.items():
        if path in state:
            state[path].copy_(leaf)


def _entered(leaf: Tensor) -> Tensor:
    """For the formula; under autograd a copy, as what it saves of it is going to be overwritten."""
    return leaf.clone() if torch.is_grad_enabled() else leaf.detach()


def _shared(optimizer: Any, state: Any, path: str) -> Tensor:
    if path not in state:
        return torch.tensor(int(optimizer._clock(state)))
    value = torch.as_tensor(state[path])
    return value.to(torch.int64) if path == "step" else value


def _bunches(optimizer: Any, rule: Rule, live: Sequence[Pair]) -> list[list[Pair]]:
    """Parameters that must be seen together, and had the same number of updates."""
    scope = getattr(rule.pure, "scope", "leaf")
    alone = type(rule.pure).__module__.startswith("fnopt.") and not isinstance(rule.pure, HasInner)
    if scope == "element" or (scope == "leaf" and alone):
        return [[pair] for pair in live]
    bunches: dict[Any, list[Pair]] = {}
    for pair in live:
        state: State = optimizer.state.get(pair[0], {})
        key = tuple(float(state[path]) if path in state else optimizer._clock(state) for path in rule.skeleton.shared)
        bunches.setdefault(key, []).append(pair)
    return list(bunches.values())


def transformed(optimizer: Any, grads: list[list[Tensor | None]]) -> list[list[Tensor | None]]:
    """The gradients of all groups after the transforms, which see them together."""
    transform = optimizer._transform()
    skeleton = Skeleton.of(transform)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    flat = [grad for group in grads for grad in group]
    names = _names(optimizer)
    live = {names[id(p)]: (p, g) for p, g in zip(params, flat, strict=True) if g is not None}
    if not live:
        return grads
    given = {name: _dense(grad) for name, (_, grad) in live.items()}
    held = {name: _entered(param) for name, (param, _) in live.items()}
    once, begun = held_once(optimizer, skeleton), bool(skeleton.shared or skeleton.memories)
    states: dict[str, State] = {name: optimizer.state[param] if begun else {} for name, (param, _) in live.items()}
    for name, state in states.items():
        if not {*skeleton.memories, *skeleton.shared} <= state.keys():
            shared, members = skeleton.spread(transform.init_state({name: held[name]}), [name])
            for path, leaf in {**shared, **members[name]}.items():
                state.setdefault(path, once.setdefault(path, leaf) if path in shared else leaf)
    new, after = transform.transform(given, skeleton.tree(once, states), held)
    shared, members = skeleton.spread(after, list(live))
    for path, leaf in shared.items():
        once[path].copy_(_whole(leaf))
        for state in states.values():
            state[path] = once[path]
    for name, state in states.items():
        for path, leaf in members[name].items():
            state[path].copy_(leaf)
    left = iter(new.values())
    return [[None if grad is None else next(left) for grad in group] for group in grads]


def held_once(optimizer: Any, skeleton: Skeleton) -> State:
    """What transforms hold once: one tensor, which the state of each parameter has (checkpoints go by parameter)."""
    states = [state for group in optimizer.param_groups for p in group["params"] if (state := optimizer.state.get(p))]
    once: State = {}
    for path in skeleton.shared:
        found = [state[path] for state in states if path in state]
        if found:
            once[path] = found[0]
    return once


def _whole(leaf: Any) -> Tensor:
    return leaf.full_tensor() if hasattr(leaf, "full_tensor") else leaf


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.layout is not torch.strided else _entered(grad)
