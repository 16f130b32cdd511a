"""`profile`: float32 against bfloat16 and float16, what each costs and changes; and a trace to look into."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.profiler import record_function

from ..compile import compiled
from ..loss_scale import DynamicLossScale
from ..step import make_step
from .hardware import hardware
from .measure import peak, traced, typical
from .output import dress, megabytes, milliseconds, picture, table, threads
from .programs import ByStep, Turn, in_turns
from .task import Task, clipped_adamw, warmed

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@attrs.frozen
class Side:
    """One precision, eager or compiled; seconds of each update, bytes, and updates that were skipped."""

    precision: str
    mode: str
    losses: list[float]
    held_out: float
    seconds: list[float]
    held: int
    peak: int
    skipped: int


@attrs.frozen
class Profile:
    """All sides; those of fp32 come first."""

    about: str
    sides: list[Side]
    hardware: tuple[str, ...]

    def __str__(self) -> str:
        head = ["", "per update", "speed-up", "peak memory", "last loss", "held-out", "from fp32", "skipped"]
        shown = table(head, self._lines())
        return "\n".join([self.about, "", shown, "", LEGEND, "", *self.hardware])

    def base(self, side: Side) -> Side:
        """That of fp32 in the same mode."""
        return next(other for other in self.sides if other.mode == side.mode)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each side, and one for the machine."""
        sides = [{"kind": "side", **attrs.asdict(side)} for side in self.sides]
        return [*sides, {"kind": "hardware", "lines": list(self.hardware)}]

    def draw(self, path: Path) -> str:
        """Time, memory, and how far the loss is from that of fp32."""
        return picture(path, self._draw, (14, 4.2))

    def _lines(self) -> Iterator[list[str]]:
        for side in self.sides:
            time, base = typical(side.seconds), self.base(side)
            yield [
                f"{side.precision}, {side.mode}",
                milliseconds(time),
                f"{typical(base.seconds) / time:.2f}",
                megabytes(side.held + side.peak),
                f"{side.losses[-1]:.4f}",
                f"{side.held_out:.4f}",
                "" if side is base else f"{side.held_out - base.held_out:+.1e}",
                str(side.skipped),
            ]

    def _draw(self, figure: Any) -> None:
        times, memory, losses = figure.subplots(1, 3, width_ratios=(3, 3, 4))
        names = [f"{side.precision}, {side.mode}" for side in self.sides]
        colors = [f"C{list(DTYPES).index(side.precision)}" for side in self.sides]
        seconds = [typical(side.seconds) for side in self.sides]
        sizes = [side.held + side.peak for side in self.sides]
        for axes, values, texts in (
            (times, [1e3 * each for each in seconds], [milliseconds(each) for each in seconds]),
            (memory, [each / 1e6 for each in sizes], [megabytes(each) for each in sizes]),
        ):
            bars = axes.barh(names, values, color=colors)
            axes.bar_label(bars, texts, padding=4, fontsize=9)
            axes.margins(x=0.3)
            axes.invert_yaxis()
        dress(times, "time of an update", "ms (median)", "")
        dress(memory, "memory at the peak of an update", "MB of tensors", "")
        for side in self.sides:
            base = self.base(side)
            if side is not base:
                apart = [loss - other for loss, other in zip(side.losses, base.losses, strict=True)]
                color, line = f"C{list(DTYPES).index(side.precision)}", "-" if side.mode == "compiled" else "--"
                label = f"{side.precision}, {side.mode}"
                losses.plot(range(1, len(apart) + 1), apart, line, color=color, lw=1.4, label=label)
        losses.axhline(0, color="C0", lw=1.4, label="fp32")
        dress(losses, "training loss minus that of fp32", "updates", "difference (nats)")
        losses.legend(frameon=False)


LEGEND = """\
per update: the median, of programs in turns; speed-up: over fp32 in the same mode; peak memory: of weights, optimizer
  state and all that one update needs beside; from fp32: difference of the held-out losses, all measured in fp32"""


def profile(
    task: Task,
    updates: int,
    trace: Path,
    *,
    lr: float = 2e-3,
    precisions: Sequence[str] = tuple(DTYPES),
    compile: bool = True,
    told: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Train in each precision, in turns; one update more of each, eager, goes into the trace."""
    programs: dict[tuple[str, str], ByStep] = {}
    for mode in ("eager", *(["compiled"] if compile else [])):
        for precision in ("fp32", *(name for name in precisions if name != "fp32")):
            programs[precision, mode] = ByStep(task, step_of(task, precision, mode, lr, updates))
    told(f"{len(programs)} programs in turns, {updates} updates each")
    named = {f"{precision}, {mode}": program for (precision, mode), program in programs.items()}
    rounds = list(in_turns(task, named, updates))
    sides = [
        _side(task, precision, mode, program, [turns[f"{precision}, {mode}"] for turns in rounds])
        for (precision, mode), program in programs.items()
    ]
    told(f"a trace of one update of each, into {trace}")
    write_trace(task, named, trace)
    about = f"{task.about}, {updates} updates on the same batches, {threads()}, on {task.device.type}"
    return Profile(about, sides, tuple(hardware(task.device)))


def step_of(task: Task, precision: str, mode: str, lr: float, updates: int) -> Any:
    """The step of one precision; float16 has a dynamic loss scale."""
    scale = DynamicLossScale() if precision == "fp16" else None
    optimizer = clipped_adamw(task, warmed(lr, updates), weight_decay=0.1, clip=1.0)
    step = make_step(task.grad_fn(DTYPES[precision]), optimizer, loss_scale=scale)
    return compiled(step) if mode == "compiled" else step


def _side(task: Task, precision: str, mode: str, program: ByStep, turns: list[Turn]) -> Side:
    skipped, held_out = int(program.state.loss_scale["skipped"]), task.judge(program.params())
    extra = task.data.at(len(turns))
    return Side(
        precision=precision,
        mode=mode,
        losses=[turn.loss if math.isfinite(turn.loss) else math.nan for turn in turns],
        held_out=held_out,
        seconds=[turn.seconds for turn in turns],
        held=program.held(),
        peak=peak(lambda: program.update(extra), task.device),
        skipped=skipped,
    )


def write_trace(task: Task, programs: dict[str, ByStep], path: Path) -> None:
    """One update of each, under its name, as a file for Perfetto or chrome://tracing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    item = task.data.at(0)
    with traced(path, task.device):
        for name, program in programs.items():
            with record_function(name):
                program.update(item)
