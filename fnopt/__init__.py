"""Optimizers and train steps for PyTorch as pure functions on plain dicts of tensors."""

from .record import evolve as evolve
from .record import record as record
from .rules.adam import Adam as Adam
from .rules.adamw import AdamW as AdamW
from .rules.sgd import SGD as SGD
from .state import TrainState as TrainState
