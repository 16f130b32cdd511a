"""Does a checkpoint fit a state? All differences in one error."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import StateMismatchError, UnsafeCheckpointError
from .container import DTYPES, Entry, unwritten
from .document import Document, check_strides
from .names import is_name

_TORCH = {coded: dtype for dtype, coded in DTYPES.items()}
_MOST = 5
Description: TypeAlias = tuple[torch.Size, torch.dtype] | None  # None: an empty dict


def check_match(path: str, document: Document, entries: Sequence[Entry], wanted: Mapping[str, Tensor | None]) -> None:
    """Names, empty dicts, shapes, dtypes and clocks of a checkpoint are those of a state, whose leaves are `wanted`.

    Raises StateMismatchError with every difference, UnsafeCheckpointError for names and strides that no state has.
    """
    clock = [] if document.position >= 0 else [("position", ">= 0", str(document.position))]
    compare(path, described(path, document, entries), wanted, clock)


def compare(
    path: str,
    found: Mapping[str, Description],
    wanted: Mapping[str, Tensor | None],
    clock: Sequence[tuple[str, str, str]] = (),
) -> None:
    """What is described as found is what is wanted; `clock` has what is wrong otherwise: (name, expected, found)."""
    problems: dict[str, list[tuple[str, str, str]]] = {"missing": [], "unexpected": [], "shape": [], "dtype": []}
    for name in wanted:
        if name not in found:
            problems["missing"].append((name, "in the file", "missing"))
    for name, stored in found.items():
        if name not in wanted:
            problems["unexpected"].append((name, "not in the file", "there"))
        elif stored is not None and (leaf := wanted[name]) is not None:
            shape, dtype = stored
            if shape != leaf.shape:
                problems["shape"].append((name, str(list(leaf.shape)), str(list(shape))))
            if dtype != leaf.dtype:
                problems["dtype"].append((name, _short(leaf.dtype), _short(dtype)))
    problems["clock"] = list(clock)
    if any(problems.values()):
        raise _mismatch(path, problems, wanted, found)


def check_clocks(path: str, negative: Mapping[str, int]) -> None:
    """No step of an optimizer and no count of updates is negative; `negative` holds those that are."""
    if negative:
        raise _mismatch(path, {"clock": [(name, ">= 0", str(value)) for name, value in negative.items()]}, {}, {})


def described(path: str, document: Document, entries: Sequence[Entry]) -> dict[str, Description]:
    """Shape and dtype by name, None for an empty dict, in the order of the tree."""
    for name in document.tree:
        if not is_name(name):
            what, hint = f"the name {name[:80]!r}", "do not use this file unless you trust whoever made it"
            raise UnsafeCheckpointError(
                f"{path} holds {what}, which fnopt would not write; {hint}",
                path=path,
                item=name or "tree",
                expected="printable names, such as params/layer.weight",
                found=what,
                hint=hint,
            )
    pairs = set(document.complex)
    found: dict[str, Description] = {name: None for name in document.tree if name[-1] == "/"}
    for entry in entries:
        values = 2 if entry.name in pairs else 1
        dtype = _TORCH.get((entry.code, values))
        if dtype is None or (values == 2 and entry.shape[-1:] != (2,)):
            raise unwritten(path, entry.name, f"no dtype of torch for {entry.name}, but {entry.code},")
        shape = entry.shape if values == 1 else entry.shape[:-1]
        if stride := document.strides.get(entry.name):
            check_strides(path, entry.name, shape, stride)
        found[entry.name] = torch.Size(shape), dtype
    if len(found) != len(document.tree) or found.keys() != set(document.tree):
        raise unwritten(path, "tree", "other tensors than its document lists,")
    return {name: found[name] for name in document.tree}


def _mismatch(
    path: str,
    problems: Mapping[str, Sequence[tuple[str, str, str]]],
    wanted: Mapping[str, object],
    found: Mapping[str, object],
) -> StateMismatchError:
    texts: list[str] = []
    for kind, items in problems.items():
        if items:
            shown = [
                name if kind in ("missing", "unexpected") else f"{name} {got} not {expected}"
                for name, expected, got in items[:_MOST]
            ]
            more = f" and {len(items) - _MOST} more" if len(items) > _MOST else ""
            texts.append(f"{len(items)} {kind}: {', '.join(shown)}{more}")
    everything = [item for items in problems.values() for item in items]
    name, expected, got = everything[0]
    hint = _hint({name.split("/")[0] for name, _, _ in everything}, wanted, found)
    return StateMismatchError(
        f"{path} is not of this state: {'; '.join(texts)}; {hint}",
        path=path,
        item=name,
        expected=expected,
        found=got,
        hint=hint,
    )


def _hint(trees: set[str], wanted: Mapping[str, object], found: Mapping[str, object]) -> str:
    if trees & {"params", "buffers"}:
        return "it was made with another model"
    if "opt_state" in trees and found:
        mine, its = (
            sorted({name.split("/")[1] for name in names if name.startswith("opt_state/")}) for names in (wanted, found)
        )
        if mine != its:
            return f"it was made with another optimizer, which remembers {its}, not {mine}"
    return f"its {', '.join(sorted(trees))} cannot continue this run"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
