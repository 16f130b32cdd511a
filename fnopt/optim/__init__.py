"""Drop-in for torch.optim: `from fnopt import optim` in place of `from torch import optim`, and all else stays."""

# torch's rules, by fnopt's formulas
# the rest of torch.optim is torch's own
from torch.optim import ASGD as ASGD
from torch.optim import LBFGS as LBFGS
from torch.optim import Adadelta as Adadelta
from torch.optim import Adamax as Adamax
from torch.optim import NAdam as NAdam
from torch.optim import Optimizer as Optimizer
from torch.optim import RAdam as RAdam
from torch.optim import Rprop as Rprop
from torch.optim import SparseAdam as SparseAdam
from torch.optim import lr_scheduler as lr_scheduler
from torch.optim import swa_utils as swa_utils
from torch.optim import swap_in_optimizer_params_and_state as swap_in_optimizer_params_and_state

# any pure optimizer
from .adapter import TorchOptimizer as TorchOptimizer
from .convert import from_torch as from_torch
from .convert import to_torch as to_torch
from .factories import configure_optimizer as configure_optimizer

# by name, by model, and from torch and back
from .factories import create_optimizer as create_optimizer
from .sgd import SGD as SGD
from .adafactor import Adafactor as Adafactor
from .adagrad import Adagrad as Adagrad
from .adam import Adam as Adam
from .adam import AdamW as AdamW
from .muon import Muon as Muon
from .rmsprop import RMSprop as RMSprop
