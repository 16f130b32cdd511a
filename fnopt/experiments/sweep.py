"""`sweep`: every cell of a grid of hyperparameters as a member of one ensemble; and the same runs one after another."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from ..compile import compiled
from ..ensemble import ensemble, unstack
from ..record import evolve
from ..state import to_device
from ..step import StepFn, make_step
from ..types import Optimizer
from .compare import RULES
from .output import threads
from .programs import ByStep, ByTorch, Program, refuse_fallback
from .sweep_result import Cell, Clock, Run, Sweep
from .task import Task, clipped_adamw, rates_of, warmed

SLICES = 50  # of a whole sweep: in each, every way makes its part of the updates


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
    """Train all cells as one ensemble, and `alone` of them (None: all) one after another, in each of the ways.

    All go on in turns, a fiftieth at a time: what makes the machine slow for a while is shared by all.
    """
    chosen = [cells[place] for place in spread(len(cells), alone)]
    ways: dict[str, Way] = {"one after another, compiled": by_step(True)} if compile else {}
    ways |= {"one after another, eager": by_step(False), "one after another, torch.optim": by_torch}
    told(f"{len(cells)} runs as one ensemble, {updates} updates, and in turns with it {len(chosen)} by each of:")
    told("; ".join(ways))
    runs, ends = list[Run](), {name: list[float]() for name in ways}
    first = "one ensemble, compiled" if compile else "one ensemble, eager"
    tracks = {first: together(task, cells, updates, compile, runs)}
    tracks |= {name: one_by_one(task, chosen, updates, way, ends[name]) for name, way in ways.items()}
    seconds = in_slices(tracks, {name: updates * (1 if name == first else len(chosen)) for name in tracks})
    about = (
        f"{task.about}, {len(cells)} runs of {updates} updates on the same batches, {threads()}; "
        "the loss on held-out batches, in nats:"
    )
    found = {run.cell: run.held_out for run in runs}
    clocks = [clock_of(first, [seconds[first]], 1, len(cells))]
    for name in ways:
        each = [seconds[name][place * updates : (place + 1) * updates] for place in range(len(chosen))]
        apart = [_apart(end, found[cell]) for end, cell in zip(ends[name], chosen, strict=True)]
        clocks.append(clock_of(name, each, len(cells), len(chosen), statistics.median(apart)))
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


def in_slices(tracks: dict[str, Iterator[float]], lengths: dict[str, int]) -> dict[str, list[float]]:
    """Run all to their ends, a part of each after a part of the others; what they yield."""
    made: dict[str, list[float]] = {name: [] for name in tracks}
    for place in range(1, SLICES + 1):
        for name, track in tracks.items():
            while len(made[name]) < lengths[name] * place // SLICES:
                made[name].append(next(track))
    for name, track in tracks.items():
        made[name] += list(track)  # what comes after the last update
    return made


def together(task: Task, cells: Sequence[Cell], updates: int, compile: bool, found: list[Run]) -> Iterator[float]:
    """All cells as the members of one ensemble: the seconds of each update, and at the end the runs in `found`."""
    step: StepFn[Any] = ensemble(make_step(task.grad_fn(), optimizer_of(task, cells, updates)), len(cells))
    step = compiled(step) if compile else step
    state, items, losses = step.init_state(task.model), task.data.iter_from(0), list[Tensor]()
    for _ in range(updates):
        item = to_device(next(items), task.device)
        began = time.perf_counter()
        state, metrics = step.step(state, item)
        losses.append(metrics["loss"].cpu().clone())
        yield time.perf_counter() - began
        refuse_fallback(step)
    curves: list[list[float]] = cast(Any, torch.stack(losses, dim=1)).tolist()
    found += [
        Run(cell, curve, task.judge(member.params), int(member.loss_scale["skipped"]))
        for cell, curve, member in zip(cells, curves, unstack(state), strict=True)
    ]


Way = Callable[[Task, Cell, int], Program]  # the run of one cell


def by_step(compile: bool) -> Way:
    """One run at a time by a step of fnopt; compiled, all cells are one program."""
    held: list[Any] = []

    def begin(task: Task, cell: Cell, updates: int) -> Program:
        optimizer = optimizer_of(task, cell, updates)
        if not held:
            step = make_step(task.grad_fn(), optimizer)
            held.append(compiled(step) if compile else step)
        return ByStep(task, evolve(held[0], optimizer=optimizer))

    return begin


def by_torch(task: Task, cell: Cell, updates: int) -> Program:
    """One run at a time by a loop over torch.optim."""
    return ByTorch(task, RULES[0].peer, rates_of(warmed(cell.lr, updates), updates), cell.weight_decay, cell.clip)


def one_by_one(task: Task, cells: Sequence[Cell], updates: int, way: Way, ends: list[float]) -> Iterator[float]:
    """These runs by one way: the seconds of each update, and the held-out losses in `ends`."""
    for cell in cells:
        program, items = way(task, cell, updates), task.data.iter_from(0)
        for _ in range(updates):
            item = to_device(next(items), task.device)
            began = time.perf_counter()
            program.update(item)
            yield time.perf_counter() - began
        ends.append(task.judge(program.params()))


def clock_of(name: str, each: list[list[float]], wanted: int, runs: int, apart: float = 0.0) -> Clock:
    """The clock of runs that took these seconds per update, where so many are wanted."""
    first, later = each[0][0], [second for seconds in each for second in seconds[2:]] or each[0]
    update = statistics.median(later)
    return Clock(name, runs, first, update, first + (wanted * len(each[0]) - 1) * update, apart)


def _apart(loss: float, other: float) -> float:
    """How far two losses are from each other; two that are not finite are alike."""
    finite = math.isfinite(loss), math.isfinite(other)
    return abs(loss - other) if all(finite) else 0.0 if not any(finite) else math.inf
