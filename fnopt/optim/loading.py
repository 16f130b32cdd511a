"""What is done to a state_dict before torch loads it, and after. Private to the adapters."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import HyperparameterError
from .skeleton import Skeleton
from .strict import matched


def prepared(optimizer: Any, state_dict: Any, strict: bool, keep_hyperparameters: bool) -> dict[str, Any]:
    """The state_dict as it is to be loaded; raises before anything has changed."""
    loaded = matched(optimizer, state_dict, keep_hyperparameters) if strict else dict(state_dict)
    if keep_hyperparameters:
        both = zip(optimizer.param_groups, loaded["param_groups"], strict=False)
        loaded["param_groups"] = [{**mine, "params": its["params"]} for mine, its in both]
    _check_numbers(optimizer, loaded["param_groups"])
    return loaded


def _check_numbers(optimizer: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse numbers that no rule can use."""
    flags = {key: value for key, value in optimizer.defaults.items() if isinstance(value, bool | None)}
    later = {**flags, **({"momentum": 0.0} if "momentum" in optimizer.defaults else {})}  # what old checkpoints lack
    for place, (mine, its) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
        try:
            optimizer._rule({**later, **its, "params": mine["params"]})
        except KeyError as missing:
            raise HyperparameterError(
                f"load_state_dict: group {place} lacks {missing}, and has {sorted(its)}; nothing was changed"
            ) from None


def keep_dtypes(optimizer: Any, loaded: Mapping[str, Any]) -> None:
    """What is no moment (counts, sums of weights) keeps its dtype; torch casts it to that of the parameter."""
    transforms = Skeleton.of(optimizer._transform()).shared
    for group, saved in zip(optimizer.param_groups, loaded["param_groups"], strict=True):
        shared = Skeleton.of(optimizer._rule(group)).shared
        paths = [path for path in (*shared, *transforms) if path != "step"]
        for param, key in zip(group["params"], saved["params"], strict=True):
            for path in paths:
                if path in optimizer.state.get(param, {}):
                    optimizer.state[param][path] = loaded["state"][key][path].detach().clone()
