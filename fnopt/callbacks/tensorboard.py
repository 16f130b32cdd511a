"""TensorBoard: the figures of a run as event files; needs tensorboard."""

from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from .reporter import Reporter
from .rows import Row
from .tracker import figures


@attrs.define(eq=False)
class TensorBoard(Reporter):
    """Write event files into `folder`, for `tensorboard --logdir`: "train/loss", "train/lr", …, "val/loss", ….

    The step is the position, which also counts skipped ones. Event files only grow; where a resumed run begins, it
    tells TensorBoard to hide what an earlier one logged from there on.

    Raises ImportError where tensorboard is not installed.
    """

    folder: Path = attrs.field(converter=Path)
    _make: Any = attrs.field(init=False, repr=False)
    _writer: Any = attrs.field(init=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        try:
            self._make = import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError as error:
            text = "TensorBoard: tensorboard, which writes event files, is not installed: pip install 'fnopt[log]'"
            raise ImportError(text) from error

    def report(self, rows: list[Row]) -> None:
        """Write each row, and see to it that they are on their way to the disk."""
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=rows[0]["position"])
        for row in rows:
            for name, value in figures(row).items():
                self._writer.add_scalar(name, value, row["position"])
        self._writer.flush()

    def close(self) -> None:
        """Report what waits, and close the file; a training that goes on writes another."""
        Reporter.close(self)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
