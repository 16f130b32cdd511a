"""Bad input is an error that says what was got and what was expected."""

import math

import pytest
import torch

from fnopt.errors import HyperparameterError, StructureError
from fnopt.schedules import (
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    join,
    linear,
    multistep_decay,
    one_cycle,
    one_cycle_momentum,
    plateau,
    polynomial,
    step_decay,
    warmup_cosine,
    warmup_stable_decay,
)

REFUSED = [
    (lambda: constant(-0.1), r"Constant: value must be finite and >= 0, got -0\.1"),
    (lambda: constant(math.nan), r"Constant: value must be finite and >= 0, got nan"),
    (lambda: constant("0.1"), r"Constant: value must be a float, a tensor or a Schedule, got '0\.1'"),
    (lambda: constant(True), r"Constant: value must be a float, a tensor or a Schedule, got True"),
    (lambda: linear(0.0, math.inf, 3), r"Linear: end must be finite and >= 0, got inf"),
    (lambda: linear(0.0, 1.0, 0), r"Linear: steps must be an int >= 1, got 0; it is a number of updates"),
    (lambda: linear(0.0, 1.0, -3), r"Linear: steps must be an int >= 1, got -3"),
    (lambda: linear(0.0, 1.0, 1e3), r"Linear: steps must be an int >= 1, got 1000\.0"),
    (lambda: cosine(1.0, True), r"Cosine: steps must be an int >= 1, got True"),
    (lambda: cosine(1.0, torch.tensor(3)), r"Cosine: steps must be an int >= 1, got tensor\(3\)"),
    (lambda: polynomial(1.0, -1.0, 3), r"Polynomial: end must be finite and >= 0, got -1\.0"),
    (lambda: polynomial(1.0, 0.0, 3, 0), r"Polynomial: power must be finite and > 0, got 0\.0"),
    (lambda: polynomial(1.0, 0.0, 0), r"Polynomial: steps must be an int >= 1, got 0"),
    (lambda: exponential(1.0, -0.5), r"Exponential: gamma must be finite and >= 0, got -0\.5"),
    (lambda: exponential(1.0, math.inf), r"Exponential: gamma must be finite and >= 0, got inf"),
    (lambda: step_decay(0.1, 0), r"StepDecay: every must be an int >= 1, got 0"),
    (lambda: step_decay(0.1, 3, -1.0), r"StepDecay: factor must be finite and >= 0, got -1\.0"),
    (lambda: step_decay(0.1, [3, 9]), r"StepDecay: every must be an int >= 1, got \[3, 9\]"),
    (lambda: multistep_decay(0.1, 30), r"MultistepDecay: milestones must be increasing ints >= 1, got 30"),
    (lambda: multistep_decay(0.1, [30, 30]), r"milestones must be increasing ints >= 1, got \(30, 30\)"),
    (lambda: multistep_decay(0.1, [0, 30]), r"milestones must be increasing ints >= 1, got \(0, 30\)"),
    (lambda: multistep_decay(0.1, [True]), r"milestones must be increasing ints >= 1, got \(True,\)"),
    (lambda: join([], []), r"Join: schedules must be a list of Schedules, got \(\)"),
    (lambda: join(constant(0.1), []), r"Join: schedules must be a list of Schedules, got Constant\(value=0\.1\)"),
    (lambda: join([constant(0.1), 0.2], [5]), r"got \(.*, 0\.2\); a number is constant\(number\)"),
    (lambda: join([plateau(0.1)], []), r"Join: schedules must be a list of Schedules, got \(Plateau\(lr=0\.1"),
    (lambda: join([constant(0.1), constant(0.2)], [5.0]), r"must be increasing ints >= 1, got \(5\.0,\)"),
    (lambda: join([constant(0.1)] * 3, [9, 5]), r"Join: boundaries must be increasing ints >= 1, got \(9, 5\)"),
    (lambda: join([constant(0.1)] * 3, [5]), r"Join: boundaries must be 2 numbers for 3 schedules, got \(5,\)"),
    (lambda: warmup_cosine(1.0, 10, 10), r"0 <= warmup < total, got warmup=10, total=10; both are"),
    (lambda: warmup_cosine(1.0, -1, 10), r"0 <= warmup < total, got warmup=-1, total=10"),
    (lambda: warmup_cosine(1.0, True, 10), r"0 <= warmup < total, got warmup=True, total=10"),
    (lambda: warmup_cosine(1.0, 1, 1e4), r"0 <= warmup < total, got warmup=1, total=10000\.0"),
    (lambda: warmup_cosine(-1.0, 1, 10), r"Cosine: peak must be finite and >= 0, got -1\.0"),
    (lambda: warmup_cosine(torch.ones(4), 1, 10)(0), r"a hyperparameter has shape \[4\], expected a scalar"),
    (lambda: warmup_stable_decay(1.0, 1, 1, 0), r"decay >= 1, got warmup=1, stable=1, decay=0; each is a number of"),
    (lambda: warmup_stable_decay(1.0, -1, 1, 1), r"warmup >= 0, .* got warmup=-1, stable=1, decay=1"),
    (lambda: warmup_stable_decay(1.0, 1, 0.5, 1), r"must be ints .* got warmup=1, stable=0\.5, decay=1"),
    (lambda: warmup_stable_decay(1.0, 1, 1, 1, shape="exp"), r"shape must be 'linear', 'cosine' or 'sqrt', got 'exp'"),
    (lambda: warmup_stable_decay(1.0, 1, 1, 1, end=-1.0), r"Linear: end must be finite and >= 0, got -1\.0"),
    (lambda: inverse_sqrt(1.0, 0), r"InverseSqrt: warmup must be an int >= 1, got 0; it is a number of updates"),
    (lambda: inverse_sqrt(-1.0, 1), r"InverseSqrt: peak must be finite and >= 0, got -1\.0"),
    (lambda: one_cycle(1.0, 0), r"OneCycle: total must be an int >= 1, got 0; it is a number of updates"),
    (lambda: one_cycle(1.0, 100, warmup=30), r"OneCycle: warmup must be in \[0, 1\], got 30\.0"),
    (lambda: one_cycle(1.0, 100, div_factor=0), r"OneCycle: div_factor must be finite and > 0, got 0\.0"),
    (lambda: one_cycle(1.0, 100, final_div_factor=-1), r"OneCycle: final_div_factor must be finite and > 0, got -1\.0"),
    (lambda: one_cycle(1.0, 100, three_phase=1), r"OneCycle: three_phase must be a bool, got 1"),
    (lambda: one_cycle(1.0, 100, anneal="cosine"), r"OneCycle: anneal must be 'cos' or 'linear', got 'cosine'"),
    (lambda: one_cycle_momentum(100, 0.85, 1.0), r"OneCycleMomentum: max_momentum must be in \[0, 1\), got 1\.0"),
    (lambda: one_cycle_momentum(0.85), r"OneCycleMomentum: total must be an int >= 1, got 0\.85"),
    (lambda: cosine_restarts(1.0, 0), r"CosineRestarts: period must be an int >= 1, got 0; it is a number of updates"),
    (
        lambda: cosine_restarts(1.0, 3, 0),
        r"CosineRestarts: multiply must be an int >= 1, got 0; each period is so many",
    ),
    (lambda: cosine_restarts(1.0, 3, 1.5), r"CosineRestarts: multiply must be an int >= 1, got 1\.5"),
    (lambda: cosine_restarts(-1.0, 3), r"CosineRestarts: peak must be finite and >= 0, got -1\.0"),
    (lambda: plateau(-0.1), r"Plateau: lr must be finite and >= 0, got -0\.1"),
    (lambda: plateau(0.1, factor=1.0), r"Plateau: factor must be in \[0, 1\), got 1\.0"),
    (lambda: plateau(0.1, patience=-1), r"Plateau: patience must be an int >= 0, got -1; it is a number of metrics"),
    (lambda: plateau(0.1, patience=2.0), r"Plateau: patience must be an int >= 0, got 2\.0"),
    (lambda: plateau(0.1, cooldown=None), r"Plateau: cooldown must be an int >= 0, got None"),
    (lambda: plateau(0.1, threshold=math.nan), r"Plateau: threshold must be finite and >= 0, got nan"),
    (lambda: plateau(0.1, threshold_mode="relative"), r"threshold_mode must be 'rel' or 'abs', got 'relative'"),
    (lambda: plateau(0.1, mode="auto"), r"Plateau: mode must be 'min' or 'max', got 'auto'"),
    (lambda: plateau(0.1, min_lr=-1), r"Plateau: min_lr must be finite and >= 0, got -1\.0"),
    (
        lambda: plateau(constant(0.1)),
        r"Plateau: lr must be a float or a tensor, got a Schedule: Constant\(value=0\.1\)",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_errors_say_what_was_got_and_what_was_expected(make, message):
    """Bad input is a HyperparameterError that names the schedule, the argument, and what it must be."""
    with pytest.raises(HyperparameterError, match=message):
        make()


def test_a_metric_of_the_wrong_shape():
    """One plateau takes one number; the message says how to have several."""
    plan = plateau(0.1)
    message = r"plateau: the metric has shape \[3\], expected \[\]; give one number \(or an lr of that shape"
    with pytest.raises(StructureError, match=message):
        plan.update(torch.ones(3), plan.init_state())
