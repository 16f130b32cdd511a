"""`compare`: the rules written here against torch.optim, from the same weights on the same batches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from .. import optim
from ..compile import compiled
from ..rules.adamw import AdamW
from ..rules.sgd import SGD
from ..step import make_step
from ..transforms.chain import chain
from ..transforms.clip import ClipNorm
from ..types import Hyper, Optimizer, Schedule
from .measure import differing, peak, typical, ulps
from .output import dress, megabytes, milliseconds, picture, table, threads
from .programs import ByStep, ByTorch, Groups, Program, Turn, in_turns, parts_of
from .task import Task, rates_of, warmed

PEER, EAGER, DROP_IN, COMPILED = "torch.optim", "fnopt, eager", "fnopt.optim", "fnopt, compiled"


@attrs.frozen
class Rule:
    """One update rule, three times: pure, torch's, and the drop-in; `lr` is the peak of its learning rate."""

    name: str
    lr: float
    pure: Callable[[Hyper | Schedule, float], Optimizer[Any]]
    peer: Callable[[Groups], torch.optim.Optimizer]
    drop_in: Callable[[Groups], torch.optim.Optimizer] | None = None


RULES = (
    Rule(
        "AdamW",
        2e-3,
        lambda lr, decay: AdamW(lr=lr, betas=(0.9, 0.99), weight_decay=decay),
        lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.99)),
        lambda groups: optim.AdamW(groups, betas=(0.9, 0.99)),
    ),
    Rule(
        "SGD",
        0.03,
        lambda lr, decay: SGD(lr=lr, momentum=0.9, weight_decay=decay),
        lambda groups: torch.optim.SGD(groups, lr=0.03, momentum=0.9),
        lambda groups: optim.SGD(groups, lr=0.03, momentum=0.9),
    ),
)


@attrs.frozen
class Side:
    """What one program did.

    ulps       of each update: how far its params are from those of torch.optim
    differing  numbers among its params that have other bits at the end, of `numbers`
    seconds    of each update
    held, peak bytes between two updates, and beside those in one
    """

    rule: str
    program: str
    losses: list[float]
    held_out: float
    ulps: list[float]
    differing: int
    numbers: int
    seconds: list[float]
    held: int
    peak: int


@attrs.frozen
class Comparison:
    """All sides of all rules."""

    about: str
    sides: list[Side]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ["", "last loss", "held-out", "first", "last", "largest", "other bits", "per update", "held", "peak"]
        rows = [line for rule in self.rules() for line in ([rule, *[""] * 9], *map(_line, self.of(rule)))]
        return "\n".join([self.about, "", table(head, rows), "", LEGEND, *self.notes])

    def rules(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(side.rule for side in self.sides))

    def of(self, rule: str) -> list[Side]:
        """The sides of one rule; torch's is the first."""
        return [side for side in self.sides if side.rule == rule]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each side."""
        return [{"kind": "side", **attrs.asdict(side)} for side in self.sides]

    def draw(self, path: Path) -> str:
        """Loss, distance and cost, a line of pictures for each rule."""
        return picture(path, self._draw, (12, 3.4 * len(self.rules())))

    def _draw(self, figure: Any) -> None:
        grid = figure.subplots(len(self.rules()), 3, squeeze=False, width_ratios=(4, 4, 3))
        for rule, (loss, apart, cost) in zip(self.rules(), grid, strict=True):
            _draw_loss(loss, rule, self.of(rule))
            _draw_distance(apart, self.of(rule))
            _draw_cost(cost, self.of(rule))


LEGEND = """\
first, last, largest: the distance of the params from those of torch.optim after the first and the last update, and the
  largest of all, in ulp of the largest entry of each tensor; other bits: numbers that are not the same bit for bit
per update: the median, of programs in turns; held: weights and optimizer state; peak: beside these, in one update"""


def compare(
    task: Task,
    updates: int,
    *,
    rules: Sequence[Rule] = RULES,
    weight_decay: float = 0.1,
    clip: float | None = None,
    compile: bool = True,
    told: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Train by each program, in turns; in float32."""
    sides: list[Side] = []
    for rule in rules:
        programs = programs_of(task, rule, updates, weight_decay=weight_decay, clip=clip, compile=compile)
        told(f"{rule.name}: {len(programs)} programs in turns, {updates} updates each")
        sides += _measured(task, rule, programs, updates)
    about = f"{task.about}, float32, {updates} updates on the same batches, {threads()}"
    return Comparison(about, sides, tuple(_notes(task, sides, clip)))


def programs_of(
    task: Task, rule: Rule, updates: int, *, weight_decay: float, clip: float | None, compile: bool
) -> dict[str, Program]:
    """torch's loop first, then all that is compared to it."""
    schedule = warmed(rule.lr, updates)
    rates = rates_of(schedule, updates)
    pure = task.by_label(lambda decay: rule.pure(schedule, decay), weight_decay)
    step = make_step(task.grad_fn(), pure if clip is None else chain(ClipNorm(clip), pure))
    programs: dict[str, Program] = {PEER: ByTorch(task, rule.peer, rates, weight_decay, clip)}
    programs[EAGER] = ByStep(task, step)
    if rule.drop_in is not None:
        programs[DROP_IN] = ByTorch(task, rule.drop_in, rates, weight_decay, clip)
    if compile:
        programs[COMPILED] = ByStep(task, compiled(step))
    return programs


def _measured(task: Task, rule: Rule, programs: dict[str, Program], updates: int) -> Iterator[Side]:
    distances: dict[str, list[float]] = {name: [] for name in programs}
    rounds = list[dict[str, Turn]]()
    for turns in in_turns(task, programs, updates):
        rounds.append(turns)
        for name, program in programs.items():
            distances[name].append(ulps(program.params(), programs[PEER].params()))
    extra, theirs = task.data.at(updates), {n: leaf.clone() for n, leaf in programs[PEER].params().items()}
    for name, program in programs.items():
        params = program.params()
        yield Side(
            rule=rule.name,
            program=name,
            losses=[turns[name].loss for turns in rounds],
            held_out=task.judge(params),
            ulps=distances[name],
            differing=differing(params, theirs),
            numbers=sum(leaf.numel() for leaf in params.values()),
            seconds=[turns[name].seconds for turns in rounds],
            held=program.held(),
            peak=peak(lambda program=program: program.update(extra), task.device),  # one update more, the last
        )


def _notes(task: Task, sides: list[Side], clip: float | None) -> Iterator[str]:
    for rule in dict.fromkeys(side.rule for side in sides):
        for side in sides:
            if side.rule == rule and side.program in (EAGER, DROP_IN):
                apart, count = sum(distance > 0 for distance in side.ulps), len(side.ulps)
                exact = not apart and not side.differing
                found = f"0 ulp at each of {count} updates" if exact else f"NOT 0 ulp, at {apart} of {count} updates"
                yield f"{rule}, {side.program}: {found}"
    if clip is not None:
        yield "clip: torch divides by norm + 1e-6, fnopt by the norm, so bits differ from the first clipped update on"
    weight = _weight(task)
    if weight & (weight - 1):
        yield (
            f"a micro-batch has {weight} {task.unit}, no power of two: fnopt and the loop divide by it at different "
            "places, and round differently"
        )


def _weight(task: Task) -> int:
    with torch.no_grad():
        return int(task.loss(task.model, parts_of(task.data.at(0))[0])[1])


def _line(side: Side) -> list[str]:
    apart = [side.ulps[0], side.ulps[-1], max(side.ulps)]
    other = f"{side.differing / side.numbers:.0%}"
    distances = ["", "", "", ""] if side.program == PEER else [*map(_ulp, apart), other]
    losses = [f"{side.losses[-1]:.4f}", f"{side.held_out:.4f}"]
    cost = [milliseconds(typical(side.seconds)), megabytes(side.held), megabytes(side.peak)]
    return [f"  {side.program}", *losses, *distances, *cost]


def _ulp(distance: float) -> str:
    return f"{distance:.3g} ulp" if distance < 1e4 else f"{distance:.1e} ulp"


STYLES = {PEER: ("C0", "-", 6.0), EAGER: ("C1", "-", 2.6), DROP_IN: ("C2", "--", 1.8), COMPILED: ("C3", ":", 1.8)}


def _draw_loss(axes: Any, rule: str, sides: list[Side]) -> None:
    for side in sides:
        color, line, width = STYLES[side.program]
        look: Any = {"color": color, "lw": width, "alpha": 0.35 if side.program == PEER else 1.0}
        axes.plot(range(1, len(side.losses) + 1), side.losses, line, label=side.program, **look)
    dress(axes, f"{rule}: training loss, on top of each other", "updates", "loss (nats)")
    axes.legend(frameon=False)


def _draw_distance(axes: Any, sides: list[Side]) -> None:
    for side in sides[1:]:
        color, line, width = STYLES[side.program]
        axes.plot(range(1, len(side.ulps) + 1), side.ulps, line, color=color, lw=width, label=side.program)
    dress(axes, "distance of the params from torch.optim", "updates", "ulp (linear up to 1)")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=-0.3, top=max(2.0, *(3 * max(side.ulps) for side in sides)))
    axes.legend(frameon=False)


def _draw_cost(axes: Any, sides: list[Side]) -> None:
    names, times = [side.program for side in sides], [1e3 * typical(side.seconds) for side in sides]
    bars = axes.barh(names, times, color=[STYLES[name][0] for name in names], height=0.6)
    texts = [f"{time:.3g} ms, {megabytes(side.held + side.peak)}" for time, side in zip(times, sides, strict=True)]
    axes.bar_label(bars, texts, padding=4, fontsize=9)
    dress(axes, "time and peak memory", "ms per update (median)", "")
    axes.margins(x=0.6)
    axes.invert_yaxis()
