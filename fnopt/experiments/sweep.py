"""`sweep`: every cell of a grid of hyperparameters as a member of one ensemble; and the same runs one after another."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from ..compile import compiled
from ..ensemble import ensemble, unstack
from ..record import evolve
from ..state import TrainState, to_device
from ..step import StepFn, make_step
from ..types import Optimizer
from .compare import RULES
from .measure import typical
from .programs import ByTorch, in_turns, refuse_fallback
from .sweep_result import Cell, Clock, Run, Sweep
from .task import Task, clipped_adamw, rates_of, warmed


def grid(lrs: Sequence[float], decays: Sequence[float], clips: Sequence[float]) -> list[Cell]:
    """All combinations."""
    return [Cell(lr, decay, clip) for clip, decay, lr in product(clips, decays, lrs)]


def sweep(
    task: Task,
    cells: Sequence[Cell],
    updates: int,
    *,
    compile: bool = True,
    alone: int | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Sweep:
    """Train all cells as one ensemble, then `alone` of them (None: all) one after another, in each of the ways."""
    told(f"{len(cells)} runs as one ensemble, {updates} updates")
    runs, clock = together(task, cells, updates, compile)
    about = (
        f"{task.about}, {len(cells)} runs of {updates} updates on the same batches, {torch.get_num_threads()} threads; "
        "the loss on held-out batches, in nats:"
    )
    clocks, chosen = [clock], spread(len(cells), alone)
    ways: dict[str, Way] = {"one after another, compiled": by_step(True)} if compile else {}
    ways |= {"one after another, eager": by_step(False), "one after another, torch.optim": by_torch}
    for name, way in ways.items():
        told(f"{len(chosen)} of them, {name}")
        clocks.append(one_by_one(task, updates, way, name=name, runs=runs, chosen=chosen))
    return Sweep(about, runs, clocks)


def spread(count: int, wanted: int | None) -> list[int]:
    """So many places of `count`, from the first to the last.

    >>> spread(10, 3), spread(3, None)
    ([0, 4, 9], [0, 1, 2])
    """
    wanted = count if wanted is None else min(wanted, count)
    return sorted({place * (count - 1) // max(1, wanted - 1) for place in range(wanted)})


def optimizer_of(task: Task, cells: Sequence[Cell] | Cell, updates: int) -> Optimizer[Any]:
    """That of one cell, or of all as leaves of shape [K]. Tensors in both cases: another cell is the same program."""
    lr, decay, clip = (_numbers(cells, name) for name in ("lr", "weight_decay", "clip"))
    return clipped_adamw(task, warmed(lr, updates), decay, clip)


def _numbers(cells: Sequence[Cell] | Cell, name: str) -> Tensor:
    values = getattr(cells, name) if isinstance(cells, Cell) else [getattr(cell, name) for cell in cells]
    return torch.tensor(values, dtype=torch.float64)


def together(task: Task, cells: Sequence[Cell], updates: int, compile: bool) -> tuple[list[Run], Clock]:
    """All cells as the members of one ensemble."""
    step: StepFn[Any] = ensemble(make_step(task.grad_fn(), optimizer_of(task, cells, updates)), len(cells))
    state, losses, seconds = _trained(task, compiled(step) if compile else step, updates)
    curves: list[list[float]] = cast(Any, torch.stack(losses, dim=1)).tolist()
    found = [
        Run(cell, curve, task.judge(member.params), int(member.loss_scale["skipped"]))
        for cell, curve, member in zip(cells, curves, unstack(state), strict=True)
    ]
    name = "one ensemble, compiled" if compile else "one ensemble, eager"
    return found, Clock(name, len(cells), seconds[0], typical(seconds), sum(seconds))


def _trained(task: Task, step: StepFn[Any], updates: int) -> tuple[TrainState, list[Tensor], list[float]]:
    """The state at the end, and of each update the loss and the seconds."""
    state, items = step.init_state(task.model), task.data.iter_from(0)
    losses, seconds = list[Tensor](), list[float]()
    for _ in range(updates):
        item = to_device(next(items), task.device)
        began = time.perf_counter()
        state, metrics = step.step(state, item)
        refuse_fallback(step)
        losses.append(metrics["loss"].cpu().clone())
        seconds.append(time.perf_counter() - began)
    return state, losses, seconds


Way = Callable[[Task, Cell, int], tuple[float, list[float]]]  # the held-out loss, and the seconds of each update


def by_step(compile: bool) -> Way:
    """One run at a time by a step of fnopt; compiled, all cells are one program."""
    held: list[Any] = []

    def train(task: Task, cell: Cell, updates: int) -> tuple[float, list[float]]:
        optimizer = optimizer_of(task, cell, updates)
        if not held:
            step = make_step(task.grad_fn(), optimizer)
            held.append(compiled(step) if compile else step)
        state, _, seconds = _trained(task, evolve(held[0], optimizer=optimizer), updates)
        return task.judge(state.params), seconds

    return train


def by_torch(task: Task, cell: Cell, updates: int) -> tuple[float, list[float]]:
    """One run at a time by a loop over torch.optim."""
    schedule = warmed(cell.lr, updates)
    rates = rates_of(schedule, updates)
    program = ByTorch(task, RULES[0].peer, rates, cell.weight_decay, cell.clip)
    seconds = [turns[""].seconds for turns in in_turns(task, {"": program}, updates)]
    return task.judge(program.params()), seconds


def one_by_one(task: Task, updates: int, way: Way, *, name: str, runs: list[Run], chosen: list[int]) -> Clock:
    """The chosen runs by one way, and how far they end from the members."""
    found = [way(task, runs[place].cell, updates) for place in chosen]
    apart = [_apart(loss, runs[place].held_out) for (loss, _), place in zip(found, chosen, strict=True)]
    each = [seconds for _, seconds in found]
    later = [second for seconds in each for second in seconds[2:]]
    whole, first = sum(map(sum, each)), each[0][0]
    if len(chosen) < len(runs):  # what was compiled once, and as many times a run without that
        warm = [sum(seconds) for seconds in each[1:] or each]
        whole = max(0.0, sum(each[0]) - sum(warm) / len(warm)) + len(runs) * sum(warm) / len(warm)
    return Clock(name, len(chosen), first, statistics.median(later or [first]), whole, statistics.median(apart))


def _apart(loss: float, other: float) -> float:
    """How far two losses are from each other; two that are not finite are alike."""
    finite = math.isfinite(loss), math.isfinite(other)
    return abs(loss - other) if all(finite) else 0.0 if not any(finite) else math.inf
