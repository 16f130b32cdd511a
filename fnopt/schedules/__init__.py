"""Schedules: hyperparameters that are pure functions of the number of updates done so far.

A Schedule is a record called as `schedule(step) -> value`. `step` is an int64 0-d tensor (what rules pass) or an int,
and counts updates from 0; the value is a 0-d tensor on its device, in float64 (float32 on devices without it). The
value at step t needs no replay, so a resumed run has nothing to restore. Numbers are leaves (a float, a 0-d tensor or
again a Schedule: batch them, differentiate by them, change them without a retrace); counts of updates are structure.

Public names are lower case, `linear(0.0, 0.1, steps=10)`, and give records that print as `Linear(...)`. Each keeps its
first value before step 0 and, if it has an end, its last one after it; `join` puts them one after the other. `plateau`
follows a metric, not the clock: it is no Schedule, and its state is a value that you hold.

>>> torch.vmap(linear(0.0, 1.0, steps=2))(torch.arange(4))          # a whole curve, to plot
tensor([0.0000, 0.5000, 1.0000, 1.0000], dtype=torch.float64)

shapes   one formula each: constant, linear, cosine, …       steps     staircases
warmups  those that begin with a warm-up                     joins     one after the other
cycles   one cycle; cosine with restarts                     plateaus  by a metric
clock    the step and the numbers at it, as tensors          checks    validators
"""

from .cycles import cosine_restarts as cosine_restarts
from .cycles import one_cycle as one_cycle
from .cycles import one_cycle_momentum as one_cycle_momentum
from .joins import join as join
from .plateaus import plateau as plateau
from .shapes import constant as constant
from .shapes import cosine as cosine
from .shapes import exponential as exponential
from .shapes import linear as linear
from .shapes import polynomial as polynomial
from .steps import multistep_decay as multistep_decay
from .steps import step_decay as step_decay
from .warmups import inverse_sqrt as inverse_sqrt
from .warmups import warmup_cosine as warmup_cosine
from .warmups import warmup_stable_decay as warmup_stable_decay
