"""Updates by the pure functions as they are, on dicts by name: for rules that look at whole parameters or at all of
them, for traces and for gradients through a step. Private to the adapters.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..rules.describe import HasInner
from .skeleton import Skeleton

Pair = tuple[Tensor, Tensor]  # a parameter and its gradient
State = dict[str, Any]


def update(optimizer: Any, rule: Any, skeleton: Skeleton, live: Sequence[Pair]) -> None:
    """One update of these parameters, those together that the rule must see together."""
    for bunch in _bunches(optimizer, rule, skeleton, live):
        names = [f"p{place}" for place in range(len(bunch))]
        states = [_state(optimizer, skeleton, param) for param, _ in bunch]
        params = {name: _entered(param) for name, (param, _) in zip(names, bunch, strict=True)}
        grads = {name: _entered(grad) for name, (_, grad) in zip(names, bunch, strict=True)}
        shared = {path: _shared(optimizer, states[0], path) for path in skeleton.shared}
        tree = skeleton.tree(shared, dict(zip(names, states, strict=True)))
        new, after = rule.update(grads, tree, params)
        once, members = skeleton.spread(after, names)
        for name, (param, _), state in zip(names, bunch, states, strict=True):
            param.copy_(new[name])
            for path, leaf in {**members[name], **once}.items():
                if path in state and isinstance(state[path], Tensor):
                    state[path].copy_(leaf)
                elif path in state:
                    state[path] = leaf.item()


def update_entries(optimizer: Any, rule: Any, skeleton: Skeleton, param: Tensor, grad: Tensor) -> None:
    """One update of those entries of a parameter that a sparse gradient names."""
    state = _state(optimizer, skeleton, param)
    at = tuple(grad.indices())
    picked = {path: state[path][at] for path in skeleton.memories if path in state}
    shared = {path: _shared(optimizer, state, path) for path in skeleton.shared}
    new, after = rule.update({"p": grad.values()}, skeleton.tree(shared, {"p": picked}), {"p": param.detach()[at]})
    once, members = skeleton.spread(after, ["p"])
    param.detach()[at] = new["p"]
    for path, leaf in members["p"].items():
        state[path][at] = leaf
    for path, leaf in once.items():
        if path in state:
            state[path].copy_(leaf)


def _state(optimizer: Any, skeleton: Skeleton, param: Tensor) -> State:
    """What is remembered of a parameter; not begun where there is nothing to remember."""
    return optimizer.state[param] if param in optimizer.state or skeleton.memories else {}


def _entered(leaf: Tensor) -> Tensor:
    return leaf if torch.is_grad_enabled() else leaf.detach()


def _shared(optimizer: Any, state: Any, path: str) -> Tensor:
    if path not in state:
        return torch.tensor(int(optimizer._clock(state)))
    value = torch.as_tensor(state[path])
    return value.to(torch.int64) if path == "step" else value


def _bunches(optimizer: Any, rule: Any, skeleton: Skeleton, live: Sequence[Pair]) -> list[list[Pair]]:
    """Parameters that must be seen together, and had the same number of updates."""
    scope = getattr(rule, "scope", "leaf")
    alone = type(rule).__module__.startswith("fnopt.") and not isinstance(rule, HasInner)
    if scope == "element" or (scope == "leaf" and alone):
        return [[pair] for pair in live]
    bunches: dict[Any, list[Pair]] = {}
    for pair in live:
        state = optimizer.state[pair[0]]
        key = tuple(float(state[path]) if path in state else optimizer._clock(state) for path in skeleton.shared)
        bunches.setdefault(key, []).append(pair)
    return list(bunches.values())


def transformed(optimizer: Any, grads: list[list[Tensor | None]]) -> list[list[Tensor | None]]:
    """The gradients of all groups after the transforms, which see them together."""
    transform = optimizer._transform()
    skeleton = Skeleton.of(transform)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    flat = [grad for group in grads for grad in group]
    live = {f"p{n}": (p, g) for n, (p, g) in enumerate(zip(params, flat, strict=True)) if g is not None}
    if not live:
        return grads
    given = {name: _dense(grad) for name, (_, grad) in live.items()}
    held = {name: _entered(param) for name, (param, _) in live.items()}
    once: State = optimizer.state["transforms"] if skeleton.shared else {}
    states = {
        name: _state(optimizer, skeleton, param) if skeleton.memories else {} for name, (param, _) in live.items()
    }
    for name in live:
        if any(path not in states[name] for path in skeleton.memories) or any(
            path not in once for path in skeleton.shared
        ):
            shared, members = skeleton.spread(transform.init_state({name: held[name]}), [name])
            for path, leaf in shared.items():
                once.setdefault(path, leaf)
            for path, leaf in members[name].items():
                states[name].setdefault(path, leaf)
    new, after = transform.transform(given, skeleton.tree(once, states), held)
    shared, members = skeleton.spread(after, list(live))
    for path, leaf in shared.items():
        once[path].copy_(leaf)
    for name, state in states.items():
        for path, leaf in members[name].items():
            state[path].copy_(leaf)
    left = iter(new.values())
    return [[None if grad is None else next(left) for grad in group] for group in grads]


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.layout is not torch.strided else _entered(grad)
