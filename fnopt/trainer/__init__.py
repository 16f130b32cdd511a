"""The Trainer: arguments people know, over `make_step`, `compiled`, `run` and the CheckpointManager.

trainer     the class                      composing   from arguments to the pure pieces
optimizers  any optimizer as a pure one    schedulers  any scheduler: clocks, tables of torch's, plateaus
loaders     any loader begins anywhere     losses      cross-entropy; models that return their own loss
plan        what a run is going to do      precisions  which one a run has
events      callbacks                      saves       checkpoints, the best, what they hold beside the state
"""

from .losses import model_loss as model_loss
from .plan import Plan as Plan
from .trainer import Trainer as Trainer
