"""Optimizers and train steps for PyTorch as pure functions on plain dicts of tensors.

This file is the map: every public name, in the order in which a run uses it.
"""

# records: every optimizer, transform and schedule is one, and `evolve` makes a variant of it
from .record import record as record
from .record import evolve as evolve
from .errors import FnoptError as FnoptError

# schedules: any numeric hyperparameter may be one
from .schedules import constant as constant
from .schedules import linear as linear
from .schedules import cosine as cosine
from .schedules import polynomial as polynomial
from .schedules import exponential as exponential
from .schedules import warmup_cosine as warmup_cosine
from .schedules import warmup_stable_decay as warmup_stable_decay
from .schedules import inverse_sqrt as inverse_sqrt
from .schedules import step_decay as step_decay
from .schedules import multistep_decay as multistep_decay
from .schedules import one_cycle as one_cycle
from .schedules import one_cycle_momentum as one_cycle_momentum
from .schedules import cosine_restarts as cosine_restarts
from .schedules import join as join
from .schedules import plateau as plateau

# transforms of gradients
from .transforms.clip import ClipNorm as ClipNorm
from .transforms.clip import ClipValue as ClipValue
from .transforms.adaptive_clip import ClipParamNorm as ClipParamNorm
from .transforms.adaptive_clip import AdaptiveClip as AdaptiveClip
from .transforms.centralize import Centralize as Centralize
from .transforms.noise import AddNoise as AddNoise
from .transforms.scale_by_adam import ScaleByAdam as ScaleByAdam
from .transforms.observe import Tap as Tap
from .transforms.observe import NanToZero as NanToZero
from .transforms.chain import chain as chain

# update rules, and wrappers that make an Optimizer of an Optimizer
from .rules.sgd import SGD as SGD
from .rules.adam import Adam as Adam
from .rules.adamw import AdamW as AdamW
from .rules.lion import Lion as Lion
from .rules.rmsprop import RMSprop as RMSprop
from .rules.adagrad import Adagrad as Adagrad
from .rules.adafactor import Adafactor as Adafactor
from .rules.muon import Muon as Muon
from .rules.schedule_free import ScheduleFree as ScheduleFree
from .rules.labels import label as label
from .rules.labels import decay_labels as decay_labels
from .rules.partition import partition as partition
from .rules.partition import freeze as freeze
from .rules.ema import ema as ema
from .rules.lookahead import lookahead as lookahead
from .rules.describe import describe as describe

# the gradient oracle, and what makes one of another
from .grads import Graded as Graded
from .grads import GradFn as GradFn
from .grads import value_and_grad as value_and_grad
from .accumulate import accumulate as accumulate
from .all_reduce import all_reduce as all_reduce
from .precision import autocast as autocast
from .sam import sam as sam
from .per_example import per_example_clip as per_example_clip
from .loss_scale import StaticLossScale as StaticLossScale
from .loss_scale import DynamicLossScale as DynamicLossScale

# the step, and the value it maps to itself
from .state import TrainState as TrainState
from .state import params_of as params_of
from .state import buffers_of as buffers_of
from .state import load_into as load_into
from .state import snapshot as snapshot
from .step import StepFn as StepFn
from .step import make_step as make_step
from .compile import compiled as compiled
from .errors import DonatedStateError as DonatedStateError
from .errors import FallbackWarning as FallbackWarning
from .ensemble import ensemble as ensemble
from .ensemble import stack as stack
from .ensemble import unstack as unstack

# data, driver, files
from .data import Batches as Batches
from .stream import Stream as Stream
from .loop import run as run
from .loop import evaluate as evaluate
from .errors import NonFiniteError as NonFiniteError
from .errors import RollbackWarning as RollbackWarning
from .errors import BatchError as BatchError
from .signals import stop_on_signal as stop_on_signal
from .checkpoint import save_checkpoint as save_checkpoint
from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import read_info as read_info
from .checkpoint import CheckpointManager as CheckpointManager
from .checkpoint import export_torch as export_torch
from .errors import CheckpointWarning as CheckpointWarning

# a drop-in for torch.optim, over the rules
from . import optim as optim

# all of it behind the arguments people know, and what it tells
from .lr_finder import lr_finder as lr_finder
from .lr_sweep import LRSweep as LRSweep
from . import callbacks as callbacks
from .trainer import Trainer as Trainer
from .trainer import model_loss as model_loss

# the words that are only types
from .types import GradTransform as GradTransform
from .types import Hyper as Hyper
from .types import Metrics as Metrics
from .types import Optimizer as Optimizer
from .types import Schedule as Schedule
from .types import Tensors as Tensors

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022  (data-flow order)
    "record", "evolve", "FnoptError",
    "constant", "linear", "cosine", "polynomial", "exponential",
    "warmup_cosine", "warmup_stable_decay", "inverse_sqrt", "step_decay", "multistep_decay",
    "one_cycle", "one_cycle_momentum", "cosine_restarts", "join", "plateau",
    "ClipNorm", "ClipValue", "ClipParamNorm", "AdaptiveClip", "Centralize", "AddNoise", "ScaleByAdam", "Tap",
    "NanToZero", "chain",
    "SGD", "Adam", "AdamW", "Lion", "RMSprop", "Adagrad", "Adafactor", "Muon", "ScheduleFree",
    "label", "decay_labels", "partition", "freeze", "ema", "lookahead", "describe",
    "Graded", "GradFn", "value_and_grad", "accumulate", "all_reduce", "autocast", "sam", "per_example_clip",
    "StaticLossScale", "DynamicLossScale",
    "TrainState", "params_of", "buffers_of", "load_into", "snapshot", "StepFn", "make_step", "compiled",
    "ensemble", "stack", "unstack", "DonatedStateError", "FallbackWarning",
    "Batches", "Stream", "run", "evaluate", "NonFiniteError", "RollbackWarning", "BatchError", "stop_on_signal",
    "save_checkpoint", "load_checkpoint", "read_info",
    "CheckpointManager", "export_torch", "CheckpointWarning", "optim", "lr_finder", "LRSweep", "callbacks",
    "Trainer", "model_loss",
    "GradTransform", "Hyper", "Metrics", "Optimizer", "Schedule", "Tensors",
]  # fmt: skip
