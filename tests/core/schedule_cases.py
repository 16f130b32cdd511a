"""Drawn schedules of every exported kind, and the facts that laws need about each."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st

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
    polynomial,
    step_decay,
    warmup_cosine,
    warmup_stable_decay,
)
from fnopt.schedules.shapes import SqrtDecay

ULP = torch.finfo(torch.float64).eps

values = st.floats(0.0, 10.0, allow_subnormal=False)
positive = st.floats(1e-6, 10.0)
shares = st.floats(0.0, 1.0, allow_subnormal=False)
factors = st.floats(1.0, 1000.0)
counts = st.integers(1, 60)
milestones = st.lists(counts, min_size=1, max_size=4, unique=True).map(sorted)
steps = st.integers(0, 150)
far_steps = st.integers(0, 2**62)
shapes = st.sampled_from(["linear", "cosine", "sqrt"])
anneals = st.sampled_from(["cos", "linear"])
cycles = {"warmup": shares, "three_phase": st.booleans(), "anneal": anneals}

warmup_cosines = st.builds(lambda warmup, rest, *args: warmup_cosine(args[0], warmup, warmup + rest, *args[1:]),
                           st.integers(0, 60), counts, values, values, values)  # fmt: skip
SIMPLE = {
    "constant": st.builds(constant, values),
    "linear": st.builds(linear, values, values, counts),
    "cosine": st.builds(cosine, values, counts, values),
    "polynomial": st.builds(polynomial, values, values, counts, st.floats(0.1, 5.0)),
    "exponential": st.builds(exponential, values, shares),
    "warmup_cosine": warmup_cosines,
    "warmup_stable_decay": st.builds(
        warmup_stable_decay,
        values,
        st.integers(0, 30),
        st.integers(0, 30),
        counts,
        start=values,
        end=values,
        shape=shapes,
    ),
    "inverse_sqrt": st.builds(inverse_sqrt, values, counts),
    "step_decay": st.builds(step_decay, values, counts, shares),
    "multistep_decay": st.builds(multistep_decay, values, milestones, shares),
    "one_cycle": st.builds(one_cycle, values, counts, div_factor=factors, final_div_factor=factors, **cycles),
    "one_cycle_momentum": st.builds(one_cycle_momentum, counts, st.floats(0.0, 0.9), st.floats(0.9, 0.99), **cycles),
    "cosine_restarts": st.builds(cosine_restarts, values, counts, st.integers(1, 4), values),
}


@st.composite
def joins(draw: Any) -> Any:
    cuts = draw(milestones)
    return join([draw(st.one_of(*SIMPLE.values())) for _ in range(len(cuts) + 1)], cuts)


SCHEDULES: dict[str, st.SearchStrategy[Any]] = {**SIMPLE, "join": joins()}

TYPICAL: dict[str, Any] = {
    "constant": constant(0.1),
    "linear": linear(0.0, 0.1, 400_000),
    "cosine": cosine(0.1, 900_000, 0.01),
    "polynomial": polynomial(0.1, 0.01, 900_000, power=0.9),
    "exponential": exponential(0.1, 0.9999),
    "warmup_cosine": warmup_cosine(0.1, 10_000, 900_000),
    "warmup_stable_decay": warmup_stable_decay(0.1, 10_000, 700_000, 100_000, shape="sqrt"),
    "inverse_sqrt": inverse_sqrt(0.1, 4_000),
    "step_decay": step_decay(0.1, 30_000, 0.5),
    "multistep_decay": multistep_decay(0.1, [300_000, 600_000]),
    "one_cycle": one_cycle(0.1, 900_000),
    "one_cycle_momentum": one_cycle_momentum(900_000, three_phase=True),
    "cosine_restarts": cosine_restarts(0.1, 10, 2),
    "join": join([linear(0.0, 0.1, 1_000), exponential(0.1, 0.99999), cosine_restarts(0.05, 7)], [1_000, 500_000]),
}


class Facts(NamedTuple):
    first: Callable[[Any], float | None]  # the value at step 0; None where it is none of the numbers
    end: Callable[[Any], int | None]  # the step from which on it keeps its value; None where it never does
    last: Callable[[Any], float | None]  # the value it keeps
    numbers: Callable[[Any], list[float]]  # every value lies between the smallest and the largest of these


def never(_: Any) -> None:
    return None


def line(first: str, last: str = "end") -> Facts:
    """It goes from the one number to the other in its `steps`."""
    return Facts(
        first=lambda s: getattr(s, first),
        end=lambda s: s.steps,
        last=lambda s: getattr(s, last),
        numbers=lambda s: [getattr(s, first), getattr(s, last)],
    )


def fall(first: str) -> Facts:
    """It goes from that number towards 0, for ever."""
    return Facts(lambda s: getattr(s, first), never, never, lambda s: [0.0, getattr(s, first)])


def corners(s: Any) -> list[float]:
    if isinstance(s, one_cycle_momentum):
        return [s.max_momentum, s.base_momentum, s.max_momentum, *[s.max_momentum] * s.three_phase]
    first = s.peak / s.div_factor
    return [first, s.peak, *[first] * s.three_phase, first / s.final_div_factor]


def up(s: Any) -> float:
    """Where a cycle has its second corner."""
    return s.warmup * s.total - 1


def product(s: Any) -> float:
    return list(itertools.accumulate([s.initial, *[s.factor] * len(s.milestones)], lambda a, b: a * b))[-1]


CYCLE = Facts(
    first=lambda s: corners(s)[0] if up(s) > 0 else None,
    end=lambda s: s.total - 1,
    last=lambda s: corners(s)[-1] if up(s) * (2 if s.three_phase else 1) < s.total - 1 else None,
    numbers=corners,
)
FACTS: dict[type, Facts] = {
    constant: Facts(lambda s: s.value, lambda s: 0, lambda s: s.value, lambda s: [s.value]),
    linear: line("start"),
    cosine: line("peak"),
    polynomial: line("start"),
    SqrtDecay: line("start"),
    exponential: fall("initial"),
    step_decay: fall("initial"),
    multistep_decay: Facts(lambda s: s.initial, lambda s: s.milestones[-1], product, lambda s: [0.0, s.initial]),
    inverse_sqrt: Facts(lambda s: 0.0, never, never, lambda s: [0.0, s.peak]),
    one_cycle: CYCLE,
    one_cycle_momentum: CYCLE,
    cosine_restarts: Facts(lambda s: s.peak, never, never, lambda s: [s.peak, s.end]),
}


def facts(schedule: Any) -> Facts:
    return FACTS[type(schedule)]


def end_of_join(s: Any) -> int | None:
    own = facts(s.schedules[-1]).end(s.schedules[-1])
    return None if own is None else own + (0, *s.boundaries)[-1]


FACTS[join] = Facts(
    first=lambda s: facts(s.schedules[0]).first(s.schedules[0]),
    end=end_of_join,
    last=lambda s: facts(s.schedules[-1]).last(s.schedules[-1]),
    numbers=lambda s: [number for part in s.schedules for number in facts(part).numbers(part)],
)


def at(schedule: Any, step: int) -> float:
    return schedule(torch.tensor(step)).item()


def sweep(schedule: Any, last: int) -> list[float]:
    return [at(schedule, step) for step in range(last + 1)]
