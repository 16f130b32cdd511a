"""Rows: what happened in a run, one dict for each event, of tensors until somebody reads them all together."""

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from ..types import Metrics
from .view import View

Row = dict[str, Any]
KINDS = ("update", "validation")  # in this order, where both are of one position


def update_row(view: View, metrics: Metrics, seconds: float | None) -> Row:
    """One step, which took this long: what it reported, and where it was. Nobody waits for the device."""
    # a copy, because a compiled step writes the next number into the memory of this one
    place: Row = {"kind": "update", "position": view.position, "updates": view.state.updates.clone()}
    place["epoch"] = view.epoch
    return {**place, **metrics, **place, "seconds": seconds}


def validation_row(view: View) -> Row:
    """One validation: what it measured, and where."""
    place: Row = {"kind": "validation", "position": view.position, "updates": view.state.updates.clone()}
    place["epoch"] = view.epoch
    return {**place, **view.validation, **place}


def plain(rows: list[Row]) -> list[Row]:
    """The rows with numbers for tensors, and None for what is not finite.

    Tensors of one dtype are read by one transfer: the device is waited for a few times, however many rows there are.

    >>> plain([{"loss": torch.tensor(0.5)}, {"loss": torch.tensor(torch.inf), "skipped": torch.tensor(1)}])
    [{'loss': 0.5}, {'loss': None, 'skipped': 1}]
    """
    found = [dict(row) for row in rows]
    alike: dict[Any, list[tuple[Row, str, Tensor]]] = {}
    for row in found:
        for name, value in row.items():
            if isinstance(value, Tensor):
                alike.setdefault((value.dtype, value.shape, value.device), []).append((row, name, value))
            else:
                row[name] = _finite(value)
    with torch.no_grad():  # cheaper than to detach each
        for group in alike.values():
            for (row, name, _), number in zip(group, _values(torch.stack([leaf for *_, leaf in group])), strict=True):
                row[name] = _finite(number)
    return found


def of_kind(kind: str, rows: Iterable[Row]) -> list[Row]:
    """The rows of one kind."""
    return [row for row in rows if row["kind"] == kind]


def _values(tensor: Any) -> list[Any]:
    return tensor.tolist()  # whose type is partial


def _finite(value: Any) -> Any:
    if isinstance(value, list):  # of the members of an ensemble
        return [_finite(item) for item in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
