"""Callbacks of `Trainer`: objects with any of `on_update(view)`, `on_validate(view)`, `on_save(view)`.

Two more things are theirs to have. `close()` is called when a training ends, however it ends: what waits is reported,
and the terminal is as before. What `state_dict()` returns (numbers that JSON takes) is kept in each checkpoint, and
given back by `load_state_dict` when a run goes on from it.
"""

from .early_stopping import EarlyStopping as EarlyStopping
from .jsonl import JsonlLog as JsonlLog
from .jsonl import read_rows as read_rows
from .progress import Progress as Progress
from .reporter import Reporter as Reporter
from .tensorboard import TensorBoard as TensorBoard
from .tracker import Tracker as Tracker
from .view import Callback as Callback
from .view import View as View
