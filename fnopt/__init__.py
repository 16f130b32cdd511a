"""Optimizers and train steps for PyTorch as pure functions on plain dicts of tensors."""

from .record import evolve as evolve
from .record import record as record
from .rules.adam import Adam as Adam
from .rules.adamw import AdamW as AdamW
from .rules.describe import describe as describe
from .rules.ema import ema as ema
from .rules.labels import decay_labels as decay_labels
from .rules.labels import label as label
from .rules.partition import freeze as freeze
from .rules.partition import partition as partition
from .rules.sgd import SGD as SGD
from .state import TrainState as TrainState
from .transforms.chain import chain as chain
from .transforms.clip import ClipNorm as ClipNorm
from .transforms.clip import ClipValue as ClipValue
