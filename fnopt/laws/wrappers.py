"""Laws of what is made of others: chain, partition, freeze, ema."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..rules.ema import Ema
from ..rules.partition import Freeze, Partition
from ..tensors import wide
from ..transforms.chain import ChainedOptimizer, ChainedTransform, chain
from ..transforms.clip import ClipValue
from .bits import apply, leaves, real, require, require_same, run
from .case import Case
from .domain import is_a
from .kinds import kind_of
from .law import law


@law("optimizer", "transform")
def law_chain_is_a_monoid(thing: Any, case: Case) -> None:
    """A chain is its parts applied first to last, however it is grouped.

    Regrouping it, and empty chains in it, change neither the value, nor a name in the state, nor a bit. A thing that is
    no chain is tried at the end of one.
    """
    parts = _parts(thing)
    flat = _chain(parts)
    require(flat == thing or not _is_chain(thing), f"the parts of {thing!r} chained are {flat!r}")
    params, grads = case.fresh()
    expected = list(run(flat, params, grads))
    for update, (result, _) in enumerate(_by_hand(parts, params, grads)):
        require_same(result, expected[update][0], f"result {update}, part by part", "so it is chained")
    for cut in range(len(parts) + (kind_of(flat) == "transform")):
        regrouped = _chain([chain(), _chain(parts[:cut]), _chain(parts[cut:])])
        require(regrouped == flat, f"cut at {cut}, the chain {flat!r} is {regrouped!r}")
        require_same(list(run(regrouped, params, grads)), expected, f"results cut at {cut}", "those of the flat chain")


@law("optimizer", where=[is_a(Partition)])
def law_partition_is_separate_runs(thing: Any, case: Case) -> None:
    """Each part gives the bits, params and state, that it gives alone on the parameters of its label."""
    params, grads = case.fresh()
    whole = list(run(thing, params, grads))
    for tag, part in cast(Partition, thing).optimizers.items():
        owned = [name for name in params if thing.labels[name] == tag]
        alone = run(part, _only(owned, params), [_only(owned, gradient) for gradient in grads])
        for update, ((result, state), (among, states)) in enumerate(zip(alone, whole, strict=True)):
            got, expected = (_only(owned, among), states[tag]), (result, state)
            require_same(got, expected, f"update {update} of {tag!r}", f"so it is when {part!r} runs alone")


@law("optimizer", where=[is_a(Freeze)])
def law_frozen_never_moves(thing: Any, case: Case) -> None:
    """A frozen parameter keeps its bits, whatever its gradient is, and has no place in the state."""
    params, grads = case.fresh()
    live = {name for _, _, owned in cast(Freeze, thing).inner(params) for name in owned}
    frozen = [name for name in params if name not in live]
    for update, (new, state) in enumerate(run(thing, params, grads)):
        require_same(_only(frozen, new), _only(frozen, params), f"frozen params after update {update}", "as they began")
        held = [path for path in leaves(state, "state") if any(path.endswith(f"[{name!r}]") for name in frozen)]
        require(not held, f"the state remembers frozen parameters: {held}")


@law("optimizer", values="tame", where=[is_a(Ema)])
def law_average_stays_within(thing: Any, case: Case) -> None:
    """The average begins equal to params, and each entry stays between the least and the most that it has had.

    Without tolerance; in float32 or wider.
    """
    params, grads = case.fresh()
    begin = {name: leaf.to(wide(leaf.dtype)) for name, leaf in params.items()}
    state = thing.init_state(params)
    require_same(state["ema"], begin, "the average from init_state", "it begins equal to params")
    least, most = begin, begin
    for new, state in run(thing, params, grads):
        least, most = _each(torch.minimum, least, new), _each(torch.maximum, most, new)
        for name, average in state["ema"].items():
            low, high = real(least[name]), real(most[name])
            held = (low <= real(average)) & (real(average) <= high)
            require(held.all(), "the average of {} is {}, outside {} to {}", name, average, low, high)


def _is_chain(thing: Any) -> bool:
    return isinstance(thing, ChainedOptimizer | ChainedTransform)


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, ChainedOptimizer):
        return [*thing.transforms, thing.optimizer]
    return list(thing.transforms) if isinstance(thing, ChainedTransform) else [ClipValue(2.0), thing]


def _chain(parts: Sequence[Any]) -> Any:
    return chain(*parts)


def _by_hand(parts: Sequence[Any], params: dict[str, Tensor], grads: list[dict[str, Tensor]]) -> Iterator[Any]:
    states = [part.init_state(params) for part in parts]
    for gradient in grads:
        result = gradient
        for place, part in enumerate(parts):
            result, states[place] = apply(part, result, states[place], params)
        yield result, states
        params = result if parts and kind_of(parts[-1]) == "optimizer" else params


def _only(names: Sequence[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names}


def _each(function: Any, held: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """A function of real numbers on every leaf, in the dtype of the first."""
    return {name: function(real(leaf), real(new[name].to(wide(new[name].dtype)))) for name, leaf in held.items()}
