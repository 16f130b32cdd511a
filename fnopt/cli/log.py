"""The log of a run: JSON, one object per line, of which none is lost or there twice, however often the run stopped."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import FnoptError
from ..state import TrainState
from ..types import Metrics

Row = dict[str, Any]
KINDS = ("update", "validation")
SHOWN = ("loss", "lr", "grad_norm", "clip_coef", "loss_scale", "skipped")


class LogError(FnoptError, ValueError):
    """A log that is not what fnopt wrote."""


class Log:
    """A file of rows; rows of updates wait in memory, as tensors, until `flush`.

    kind "update"      of each step: position, updates, loss (nats per byte), bits_per_byte, lr, grad_norm, clip_coef,
                       loss_scale, skipped (0 or 1), bytes, seconds. What is not finite is null
    kind "validation"  position, updates, bits_per_byte of the averaged weights on the held-out text
    """

    def __init__(self, path: Path, until: Mapping[str, int] | None = None):
        """Go on after the rows of each kind up to the position in `until`; what comes later is cut off."""
        self.path = path
        rows = read_rows(path) if until else []
        kept = "".join(json.dumps(row) + "\n" for row in rows if row["position"] <= (until or {})[row["kind"]])
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(kept, encoding="utf-8")
        os.replace(temporary, path)
        # where the next row begins, and what waits for it: one tuple, so that Ctrl-C cannot part them
        self._end: tuple[int, list[Row]] = len(kept.encode()), []

    def update(self, state: TrainState, metrics: Metrics, seconds: float) -> None:
        """One step, which took this long; nobody waits for the device."""
        row: Row = {"kind": "update", "position": state.position, "updates": state.updates}
        row.update({name: metrics[name] for name in SHOWN}, bytes=metrics["weight"], seconds=round(seconds, 4))
        self._end[1].append(row)

    def validation(self, state: TrainState, bits_per_byte: float) -> None:
        """One validation."""
        where: Row = {"position": state.position, "updates": state.updates}
        self._end[1].append({"kind": "validation", **where, "bits_per_byte": bits_per_byte})

    def flush(self) -> list[Row]:
        """Write what waits, and give it back; interrupted, it has no effect or is repeated by the next call."""
        end, waiting = self._end
        rows = [_plain(row) for row in waiting]
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with self.path.open("r+b") as file:
            file.seek(end)
            file.write(data)
            file.truncate()
        self._end = end + len(data), []
        return rows


def read_rows(path: Path) -> list[Row]:
    """The rows of a log, none if there is no file; a last line that a crash cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        row: object = json.loads(line)
    except ValueError:
        row = None
    fields = cast(Row, row if isinstance(row, dict) else {})
    if fields.get("kind") not in KINDS or not isinstance(fields.get("position"), int):
        raise LogError(f"{path}: line {number} is not a row of a log that fnopt wrote; remove that line")
    return fields


def _plain(row: Row) -> Row:
    """Numbers for tensors, null for what is not finite, and bits beside nats."""
    numbers = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in row.items()}
    row = {name: None if isinstance(n, float) and not math.isfinite(n) else n for name, n in numbers.items()}
    if row["kind"] == "update":
        row["bits_per_byte"] = row["loss"] / math.log(2) if row["loss"] is not None else None
        row["bytes"] = int(row["bytes"])
    return row
