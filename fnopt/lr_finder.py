"""`lr_finder`: the learning rate range test, on a copy of a run that it leaves as it was."""

import copy
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from operator import mul
from typing import Any, TypeVar, cast

import torch

from .compile.compiled import Compiled
from .errors import DataExhaustedError, HyperparameterError, UsageError
from .loop import Resumable
from .lr_sweep import LRSweep
from .randomness import borrowed_generators, mix, seeded
from .record import evolve
from .rules.describe import HasInner, leaf_rules, map_inner
from .state import TrainState, snapshot, to_device
from .step import StepFn
from .stream import Stream
from .tensors import at, device_of
from .types import Hyper, Metrics

B = TypeVar("B")
DIVERGED = 4.0  # times the least smoothed loss: that of fastai, Lightning and torch-lr-finder
SKIPPED = 30  # steps in a row: a loss scale of 2^16 is down to 2^-14 by then


def lr_finder(
    step: StepFn[B],
    state: TrainState,
    data: Resumable[B],
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    updates: int = 100,
) -> LRSweep:
    """Train a copy of `state` while the learning rate rises exponentially, and see where the loss falls, and diverges.

    The rate takes the place of every `lr` inside the optimizer, also of a Schedule; rules that are parts of one
    optimizer keep the ratio of their rates, and the rate is that of the first. It ends early where the smoothed loss is
    over 4 times its least (for negative losses: 3 times the size of the least above it) or not finite. A skipped step
    takes another batch at the same rate. Each update waits for the device, to see the loss.

    Nothing is changed: not state, generators, the place in `data`, nor the module that the loss is written with. A
    compiled step compiles nothing where its `lr` is a float already, and one variant else.

    >>> from fnopt import SGD, Batches, make_step, value_and_grad
    >>> grad_fn = value_and_grad(lambda params, x: ((params["w"] - x).square().sum(), len(x)))
    >>> step, data = make_step(grad_fn, SGD()), Batches([1.0, 1.5, 2.0, 2.5], batch_size=2)
    >>> sweep = lr_finder(step, step.init_state({"w": torch.zeros(())}), data, lowest=1e-4)
    >>> sweep.diverged, 0.01 < sweep.suggestion < 1.0          # above 1 each update overshoots by more than it gains
    (True, True)

    Raises HyperparameterError for a range or number that is none, UsageError for a step or data it cannot sweep.
    Source: Smith 2017, arXiv:1506.01186, 3.3.
    """
    _check(step, data, lowest, highest, updates)
    lrs = [lowest * (highest / lowest) ** (place / (updates - 1)) for place in range(updates)]
    losses, diverged = list[float](), False
    with _traceless(step, state, data):
        memory, least = Memory(updates), math.inf
        for loss in _losses(step, state, copy.copy(data), lrs):
            diverged = not math.isfinite(loss)
            if diverged:
                break
            losses.append(loss)
            average = memory.add(loss)
            least = min(least, average)
            diverged = average - least > (DIVERGED - 1) * abs(least)
            if diverged:
                break
    return LRSweep.of(lrs[: len(losses)], losses, diverged)


class Memory:
    """An exponential moving average over a tenth of a sweep, without the pull of its first value."""

    def __init__(self, updates: int):
        self.decay = 1 - min(1.0, 10 / updates)
        self.total = self.weight = 0.0

    def add(self, value: float) -> float:
        """The average with one more value."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + 1 - self.decay
        return self.total / self.weight


def _losses(step: Any, state: TrainState, data: Resumable[Any], lrs: list[float]) -> Iterator[float]:
    """The loss that each rate made its update from."""
    relative = _relative(step.optimizer, state)
    batches = data.iter_from(state.position)
    state = snapshot(state)
    for lr in lrs:
        rated = evolve(step, optimizer=_map_lr(relative, partial(mul, lr)))
        state, metrics = _update(rated, state, batches)
        yield float(metrics["loss"])


def _update(step: StepFn[Any], state: TrainState, batches: Iterator[Any]) -> tuple[TrainState, Metrics]:
    """One update that is applied, unless the loss is not finite; the loss is nan where none can be."""
    metrics: Metrics = {}
    for _ in range(SKIPPED):
        try:
            batch = to_device(next(batches), device_of(state.params))
        except StopIteration:
            raise DataExhaustedError(
                f"lr_finder: data ended at position {state.position}, expected enough for all updates of the sweep; "
                "sweep over fewer, or give data that starts again, such as fnopt.Batches"
            ) from None
        state, metrics = step.step(state, batch)
        if not metrics.get("skipped") or not math.isfinite(metrics["loss"]):
            return state, metrics
    return state, {**metrics, "loss": torch.tensor(math.nan)}


def _relative(optimizer: Any, state: TrainState) -> Any:
    """The optimizer with, for each lr, its ratio to the first that is not 0: now, or soon in a warm-up from 0."""
    rules: list[Hyper] = [rule.lr for _, rule, _ in leaf_rules(optimizer, ()) if hasattr(rule, "lr")]
    for later in (0, *(2**power for power in range(21))):
        rate_of = partial(_rate, state.updates + later)
        first = next((rate for rate in [rate_of(lr) for lr in rules] if rate), None)
        if first is not None:
            return _map_lr(optimizer, partial(_ratio, rate_of, first))
    raise UsageError("lr_finder: no rule of the optimizer has an lr above 0, expected one to take the place of")


def _rate(clock: torch.Tensor, lr: Hyper) -> float:
    return float(at(clock, lr)[0])


def _ratio(rate_of: Callable[[Hyper], float], first: float, lr: Hyper) -> float:
    return rate_of(lr) / first


def _map_lr(optimizer: Any, fn: Callable[[Any], float]) -> Any:
    """The optimizer with `fn` of every lr inside."""
    if isinstance(optimizer, HasInner) or not hasattr(optimizer, "lr"):
        return map_inner(optimizer, lambda part: _map_lr(part, fn))
    return evolve(optimizer, lr=fn(optimizer.lr))


@contextmanager
def _traceless(step: Any, state: TrainState, data: Any) -> Generator[None]:
    """After the block all generators are as before it, and a compiled step has its last state again."""
    own = list(_generators(data))
    before = [generator.get_state() for generator in own]
    engine = step.engine if isinstance(step, Compiled) else None
    last = engine and engine.last_state
    try:
        with borrowed_generators(), seeded(mix(state.seed, state.position), device_of(state.params)):
            yield
    finally:
        for generator, kept in zip(own, before, strict=True):
            generator.set_state(kept)
        if engine is not None:
            engine.last_state = last


def _generators(data: Any) -> Iterator[torch.Generator]:
    """Those that a DataLoader inside a Stream draws its order from."""
    loader = getattr(data, "source", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    found = [getattr(owner, "generator", None) for owner in (loader, getattr(loader, "sampler", None), inner)]
    yield from {id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values()


def _check(step: Any, data: Any, lowest: Any, highest: Any, updates: Any) -> None:
    if not hasattr(step, "optimizer"):
        raise UsageError(
            f"lr_finder: the step is a {type(step).__name__}, expected one of make_step, or compiled of it, whose "
            "optimizer can be given another lr; of an ensemble, sweep the step inside"
        )
    if not hasattr(data, "iter_from"):
        raise UsageError(f"lr_finder: data is a {type(data).__name__}, expected fnopt.Batches(dataset, batch_size=…)")
    if isinstance(data, Stream) and isinstance(cast(Any, data.source), Iterator):
        raise UsageError(
            "lr_finder: the Stream reads a one-shot iterator, whose items the run would then miss, expected a source "
            "that can be read again; give a Dataset, a DataLoader or a list, or a second iterator"
        )
    if not 0.0 < lowest < highest < math.inf:
        raise HyperparameterError(f"lr_finder: expected 0 < lowest < highest < inf, got {lowest!r} and {highest!r}")
    if type(updates) is not int or updates < 2:
        raise HyperparameterError(f"lr_finder: updates must be an int >= 2, got {updates!r}")
