"""What torch keeps of each parameter, put where a pure optimizer's state has it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from ..errors import StateMismatchError
from ..state import TrainState
from .names import escape

Tree = Mapping[str, Any]


@attrs.define
class Memories:
    """The leaves of an opt_state, looked up in a torch file.

    members         what the file keeps of each parameter, by name
    values          what was found, by flat name
    clocks          the numbers of updates among it
    problems        (name, expected, found)
    """

    members: Mapping[str, Mapping[str, Any]]
    params: Mapping[str, Tensor]
    step: int
    values: dict[str, Tensor] = attrs.field(factory=dict[str, Tensor])
    clocks: list[int] = attrs.field(factory=list[int])
    problems: list[tuple[str, str, str]] = attrs.field(factory=list[tuple[str, str, str]])
    _used: set[tuple[str, str]] = attrs.field(factory=set[tuple[str, str]])

    def fill(self, tree: Tree, path: tuple[str, ...]) -> None:
        """Look for every leaf of this part of the state, which stands at `path` in it."""
        by_parameter = bool(tree) and tree.keys() <= self.params.keys()
        for key, item in tree.items():
            if isinstance(item, dict):
                self.fill(cast(Tree, item), (*path, key))
            elif by_parameter:
                self._of_parameter(path, key)
            else:
                self._shared(tree, (*path, key), item)

    def unused(self) -> dict[str, Tensor]:
        """What the file has, and the state has no place for, under names that say so."""
        left = [(name, key) for name, member in self.members.items() for key in member if (name, key) not in self._used]
        nothing = torch.zeros(0)
        return {f"opt_state/{escape(key)}/{escape(name)}": nothing for name, key in left if key != "step"}

    def _of_parameter(self, path: tuple[str, ...], name: str) -> None:
        member = self.members.get(name, {})
        key = next((end for end in _ends(path) if end in member), None)
        if key is not None:
            self._used.add((name, key))
            if isinstance(member[key], Tensor):
                self.values[_flat(*path, name)] = member[key]

    def _shared(self, siblings: Tree, path: tuple[str, ...], leaf: Tensor) -> None:
        """A leaf that the state holds once and torch holds for each parameter, as it does the clock."""
        owners = set(_names(siblings)) & self.members.keys() or self.members.keys()
        held = [self.members[name] for name in owners]
        key = next((end for end in _ends(path) if any(end in member for member in held)), "")
        self._used.update((name, key) for name in owners)
        name = _flat(*path)
        found = [member[key] for member in held if key in member]
        if not found and path[-1] == "step":
            found = [self.step]
        if not found:
            if "metrics" in path:  # a report, which the next step makes anew
                self.values[name] = leaf
        elif leaf.dtype.is_floating_point:
            self.values[name] = torch.as_tensor(found[0])
        else:
            self._clock(name, leaf, found)

    def _clock(self, name: str, leaf: Tensor, found: list[Any]) -> None:
        counts = [count(value) for value in found]
        wrong = next((value for value, number in zip(found, counts, strict=True) if number is None), None)
        if wrong is not None or len(set(counts)) > 1:
            listed = sorted({repr(number) for number in counts})[:4]
            got = f"{float(wrong):g}" if wrong is not None else " and ".join(listed)
            self.problems.append((name, "a count >= 0, one for all its parameters", got))
        number = counts[0] or 0
        if name.endswith("/step"):
            self.clocks.append(number)
        self.values[name] = torch.tensor(number, dtype=leaf.dtype)


def members_of(path: str, optimizer: Any, like: TrainState) -> dict[str, Mapping[str, Any]]:
    """What an optimizer's state_dict keeps of each parameter, by name."""
    try:
        groups, state = list(optimizer["param_groups"]), dict(optimizer["state"])
        numbers = [number for group in groups for number in group["params"]]
        if all("param_names" in group for group in groups):
            names = [str(name) for group in groups for name in group["param_names"]]
        else:
            names = _names_in_order(path, groups, numbers, like)
        members = {name: dict(state.pop(number, {})) for name, number in zip(names, numbers, strict=True)}
        strangers = {f"parameter {number}": dict(member) for number, member in state.items()}
        return {**members, **strangers}
    except StateMismatchError:
        raise
    except (TypeError, KeyError, ValueError, AttributeError):
        what = "an optimizer that is no state_dict of torch.optim"
        raise _refused(path, what, "save optimizer.state_dict()") from None


def count(value: Any) -> int | None:
    """A number of steps as an int; None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = math.isfinite(number) and number >= 0 and number == int(number) and not isinstance(value, bool)
    return int(number) if whole else None


def _names_in_order(path: str, groups: list[Any], numbers: list[Any], like: TrainState) -> list[str]:
    """Parameters without names go by their order, where there is only one."""
    remembered = {name for name in _names(cast(Tree, like.opt_state)) if name in like.params}
    for names in ([name for name in like.params if name in remembered], list(like.params)):
        if len(groups) == 1 and len(names) == len(numbers):
            return names
    sizes = [len(group["params"]) for group in groups]
    raise _refused(
        path,
        f"param groups of {sizes} parameters without names, for {len(like.params)} params",
        "save it from an optimizer of model.named_parameters()",
    )


def _refused(path: str, what: str, hint: str) -> StateMismatchError:
    expected = "the state_dict of an optimizer, with names"
    return StateMismatchError(
        f"{path} holds {what}; {hint}", path=path, item="optimizer", expected=expected, found=what, hint=hint
    )


def _names(tree: Tree) -> Iterator[str]:
    """The keys of all leaves."""
    for key, item in tree.items():
        if isinstance(item, dict):
            yield from _names(cast(Tree, item))
        else:
            yield key


def _ends(path: tuple[str, ...]) -> list[str]:
    """The ends of a path as torch's keys, the longest first."""
    return [".".join(path[start:]) for start in range(len(path))]


def _flat(*path: str) -> str:
    return "/".join(("opt_state", *map(escape, path)))
