"""The checkpoints of a folder, in the order in which they were saved, and which of them may go.

There is no pointer to the newest or the best, which could go stale: each file says which save it was (`serial`) and how
good (`metric`). The serial, not the position, says which is newest: a run that went back to an older file and on from
there saves lower positions later.
"""

import math
import re
import warnings
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import attrs
from torch import Tensor

from ..errors import CheckpointError, CheckpointWarning, UsageError
from .file import Encoded, read_header
from .fs import Fs, names_in

_NAME = re.compile(r"step-(\d{10,20})\.safetensors", re.ASCII)


@attrs.frozen
class Saved:
    """One file, as its header says; `serial` is None where that cannot be read. The stamp tells it from a later one."""

    path: Path
    position: int
    serial: int | None
    metric: float | None
    stamp: tuple[int, ...]


def name_of(position: int) -> str:
    """The name of the file for a position; names sort as positions do.

    >>> name_of(1200)
    'step-0000001200.safetensors'
    """
    return f"step-{position:010d}.safetensors"


def as_metric(metric: Any) -> float | None:
    """A metric as it is written; None for one that is not finite, since JSON holds none."""
    if metric is None:
        return None
    if isinstance(metric, Tensor) and metric.numel() == 1:
        metric = metric.item()
    if isinstance(metric, bool) or not isinstance(metric, int | float):
        raise UsageError(f"CheckpointManager.save: metric is a {type(metric).__name__}, expected a number or None")
    return float(metric) if math.isfinite(metric) else None


@attrs.define(eq=False)
class Shelf:
    """The files of one folder. What was read once is remembered for as long as a file stays the same."""

    folder: Path
    fs: Fs
    _known: dict[Path, Saved] = attrs.field(init=False, factory=dict[Path, Saved])
    _verdicts: dict[Saved, bool] = attrs.field(init=False, factory=dict[Saved, bool])

    def newest_first(self) -> list[Saved]:
        """All files, last saved first; those that nobody can read before all others, since they might be newer."""

        def rank(file: Saved) -> tuple[bool, int, int]:
            return file.serial is None, file.serial or 0, file.position

        return sorted(self._look(), key=rank, reverse=True)

    def best_first(self, mode: Literal["min", "max"]) -> list[Saved]:
        """The files with a metric, best first and the older of equal ones; before them those that nobody can read."""
        sign = 1 if mode == "min" else -1

        def rank(file: Saved) -> tuple[bool, float, int]:
            return file.serial is not None, sign * (file.metric or 0.0), file.serial or 0

        return sorted((file for file in self._look() if file.serial is None or file.metric is not None), key=rank)

    def is_good(self, file: Saved) -> bool:
        """Does this file verify? Read once; what this process has written was hashed then."""
        if file not in self._verdicts:
            try:
                read_header(file.path, verify=True)
                self._verdicts[file] = True
            except CheckpointError:
                self._verdicts[file] = False
        return self._verdicts[file]

    def put(self, path: Path, encoded: Encoded, keep: int, mode: Literal["min", "max"]) -> None:
        """Write one more; only when it is durable, remove what is superseded."""
        encoded.write(path, self.fs)
        self._known[path] = self._read(path)
        self._verdicts[self._known[path]] = True
        for old in self._superseded(keep, mode):
            try:
                self.fs.unlink(old)
            except FileNotFoundError:
                pass
            except OSError as cause:
                warnings.warn(f"cannot remove {old}, which is superseded: {cause.strerror}", CheckpointWarning, 4)

    def _superseded(self, keep: int, mode: Literal["min", "max"]) -> list[Path]:
        """The files that nothing is lost with: older than `keep` good ones, and not the best good one.

        What is broken stays, to be looked at, and so does what fnopt did not write.
        """
        files = self.newest_first()
        kept = list(islice(filter(self.is_good, files), keep))
        if len(kept) < keep:
            return []
        kept += islice(filter(self.is_good, self.best_first(mode)), 1)
        spare = [file for file in files if file.serial is not None and file not in kept]
        return [file.path for file in spare if self._verdicts.get(file, True)]

    def _look(self) -> list[Saved]:
        """All files there are now; what is known of others is forgotten."""
        names = filter(_NAME.fullmatch, names_in(self.folder, self.fs))
        files = [self._read(self.folder / name) for name in names]
        self._known = {file.path: file for file in files}
        self._verdicts = {file: self._verdicts[file] for file in files if file in self._verdicts}
        return files

    def _read(self, path: Path) -> Saved:
        try:
            stamp = self.fs.stamp(path)
        except OSError:  # removed meanwhile, or a broken disk: reading it will say which
            stamp = ()
        known = self._known.get(path)
        if known is not None and known.stamp == stamp:
            return known
        position = int(path.stem.removeprefix("step-"))
        try:
            document, _ = read_header(path, verify=False)
        except CheckpointError:
            return Saved(path, position, None, None, stamp)
        return Saved(path, position, document.serial, document.metric, stamp)
