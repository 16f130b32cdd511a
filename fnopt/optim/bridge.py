"""Bridge: a stateful optimizer as a pure one with a state and params, and back. Private to the adapters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import StructureError
from ..rules.partition import partition
from ..transforms.chain import chain
from ..types import Tensors
from .groups import labels_of
from .plain import held_once
from .skeleton import Skeleton

Group = tuple[str, Any, dict[str, Tensor]]  # label, rule, parameters by name


def groups_of(optimizer: Any) -> list[Group]:
    """Each group as a rule with its parameters by name; without names, by number."""
    return [
        (group.get("label") or f"group {place}", optimizer._rule(group), dict(zip(names, group["params"], strict=True)))
        for place, (group, names) in enumerate(zip(optimizer.param_groups, labels_of(optimizer), strict=True))
    ]


def pure_of(optimizer: Any) -> Any:
    """The pure optimizer that does what this one does now."""
    groups = groups_of(optimizer)
    if len(groups) == 1:
        inner = groups[0][1]
    else:
        labels = {name: tag for tag, _, params in groups for name in params}
        inner = partition({tag: rule for tag, rule, _ in groups}, labels)
    transforms = optimizer._transform().transforms
    return chain(*transforms, inner) if transforms else inner


def functional(optimizer: Any) -> tuple[Any, Any, dict[str, Tensor]]:
    """The pure optimizer, its state and the params, all copies."""
    pure, groups = pure_of(optimizer), groups_of(optimizer)
    params = {name: param.detach().clone() for _, _, owned in groups for name, param in owned.items()}
    states = {tag: _group_state(optimizer, rule, owned) for tag, rule, owned in groups}
    state: Any = states if len(groups) > 1 else next(iter(states.values()))
    transform = optimizer._transform()
    if transform.transforms:
        skeleton = Skeleton.of(transform)
        fresh, begun = skeleton.spread(transform.init_state(params), list(params))
        once = {**fresh, **{path: leaf.clone() for path, leaf in held_once(optimizer, skeleton).items()}}
        for name, param in ((name, param) for _, _, owned in groups for name, param in owned.items()):
            held = optimizer.state.get(param, {})
            begun[name].update({path: held[path].clone() for path in begun[name] if path in held})
        *_, last = pure.init_state({name: leaf.to("meta") for name, leaf in params.items()})
        state = {**skeleton.tree(once, begun), last: state}
    return pure, state, params


def _group_state(optimizer: Any, rule: Any, owned: Mapping[str, Tensor]) -> Any:
    skeleton = Skeleton.of(rule)
    fresh = rule.init_state({name: param.detach() for name, param in owned.items()})
    shared, members = skeleton.spread(fresh, list(owned))
    clocks: dict[str, tuple[float, ...]] = {}
    for name, param in owned.items():
        held = optimizer.state.get(param, {})
        members[name] = {path: _kept(held.get(path), leaf) for path, leaf in members[name].items()}
        clocks[name] = tuple(_read(optimizer, held, path) for path in skeleton.shared)
    if len(set(clocks.values())) > 1:
        few = ", ".join(f"{name} had {clock[0]:g}" for name, clock in list(clocks.items())[:8])
        raise StructureError(
            f"functional: the parameters had unequal numbers of updates ({few}), and a pure state has one clock; give "
            "them param groups of their own"
        )
    if clocks:
        values = zip(skeleton.shared, next(iter(clocks.values())), strict=True)
        shared = {path: torch.full_like(shared[path], value) for path, value in values}
    return skeleton.tree(shared, members)


def _kept(held: Tensor | None, fresh: Tensor) -> Tensor:
    return fresh if held is None else held.detach().clone()


def _read(optimizer: Any, held: Mapping[str, Any], path: str) -> float:
    return float(held[path]) if path in held else optimizer._clock(held)


def load_functional(optimizer: Any, opt_state: Any, params: Tensors) -> None:
    """Take over params and a state that `functional` gave, or what became of them."""
    mine = {name: param for _, _, owned in groups_of(optimizer) for name, param in owned.items()}
    if mine.keys() != params.keys():
        missing, extra = sorted(mine.keys() - params.keys()), sorted(params.keys() - mine.keys())
        raise StructureError(f"load_functional: params lack {missing[:5]} and have {extra[:5]} that are not here")
    for name, param in mine.items():
        if param.shape != params[name].shape:
            raise StructureError(
                f"load_functional: {name!r} has shape {list(params[name].shape)}, expected {list(param.shape)}"
            )
    try:
        remembered = _remembered(optimizer, opt_state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StructureError(
            f"load_functional: the state is not one of {pure_of(optimizer)!r} for these parameters: {error!r}"
        ) from None
    with torch.no_grad():
        for name, param in mine.items():
            if remembered[name]:
                optimizer.state[param].update(remembered[name])
            param.copy_(params[name])


def _remembered(optimizer: Any, opt_state: Any) -> dict[str, dict[str, Tensor]]:
    """What the stateful optimizer keeps of each parameter, by name: copies."""
    groups, transform = groups_of(optimizer), optimizer._transform()
    names = [name for _, _, owned in groups for name in owned]
    kept: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    inner = opt_state
    if transform.transforms:
        *before, last = opt_state
        inner = opt_state[last]
        once, members = Skeleton.of(transform).spread({key: opt_state[key] for key in before}, names)
        own = {path: leaf.detach().clone() for path, leaf in once.items()}  # one tensor for all
        kept = {name: {**own, **_copies(members[name])} for name in names}
    for tag, rule, owned in groups:
        once, members = Skeleton.of(rule).spread(inner[tag] if len(groups) > 1 else inner, list(owned))
        for name, param in owned.items():
            wanted = set(Skeleton.of(rule).spread(rule.init_state({name: param.detach()}), [name])[1][name])
            if members[name].keys() != wanted:
                raise ValueError(f"{name} has {sorted(members[name])}, expected {sorted(wanted)}")
            shared = {path: _stored(path, leaf) for path, leaf in once.items()} if optimizer._counts else {}
            kept[name].update({**shared, **_copies(members[name])})
    return kept


def _copies(tensors: Tensors) -> dict[str, Tensor]:
    return {path: leaf.detach().clone() for path, leaf in tensors.items()}


def _stored(path: str, leaf: Tensor) -> Tensor:
    wide = torch.get_default_dtype() == torch.float64
    dtype = torch.float64 if wide else torch.float32  # as torch's clocks
    return leaf.to("cpu", dtype) if path == "step" else leaf.detach().clone()
