"""`fnopt compare`, `sweep`, `profile`, `curves` and `plan`: experiments on the main job, into a folder each."""

import argparse
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import attrs
import torch

from ..data import Batches
from ..experiments.compare import compare
from ..experiments.curves import curves
from ..experiments.output import threads, write_rows
from ..experiments.plan import Preview, groups_of
from ..experiments.profile import DTYPES, profile
from ..experiments.sweep import grid, sweep
from ..experiments.task import Task
from ..state import params_of
from ..trainer.plan import rate_curves
from .config import Config, add_flags, flag, from_flags
from .job import loss, make_job, make_model
from .text import Windows, read_text, split

MODEL = ("data", "width", "layers", "heads", "context", "updates", "batch_size", "micro_batches", "seed", "threads")
HELD_OUT = 8  # batches of 64 windows that results are judged by
TINY = {"width": 32, "layers": 1, "heads": 2, "context": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "compare": {"updates": 100, "micro_batches": 2},
    "sweep": {"width": 32, "layers": 2, "context": 32, "updates": 1000, "batch_size": 2, "micro_batches": 1},
    "profile": {"updates": 30, "micro_batches": 1},
}
QUICK: dict[str, dict[str, Any]] = {
    "compare": {**TINY, "updates": 20, "micro_batches": 2},
    "sweep": {**TINY, "updates": 30, "micro_batches": 1},
    "profile": {**TINY, "updates": 10, "micro_batches": 1},
}
GRID = {"lr": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "weight_decay": (0.0, 0.1, 0.5, 1.0), "clip": (0.1, 1.0)}
QUICK_GRID = {"lr": (1e-3, 1e-2, 1e-1), "weight_decay": (0.0, 0.3), "clip": (0.1, 1.0)}


class Result(Protocol):
    """What an experiment returns: it prints itself, and has rows and a picture."""

    def rows(self) -> list[dict[str, Any]]: ...
    def draw(self, path: Path, /) -> str: ...


def add_commands(commands: Any) -> None:
    """The five commands."""
    about = "fnopt against torch.optim on the same batches: curves, difference in ulp, time and memory"
    parser = _command(commands, "compare", about, run_compare)
    _flag(parser, "weight_decay", 0.1)
    text = "largest global norm of a gradient (default: no clip, as torch's differs in the last bits)"
    parser.add_argument("--clip", metavar="NORM", type=float, default=None, help=text)

    about = "learning rate x weight decay x clip threshold, as one ensemble and one after another"
    parser = _command(commands, "sweep", about, run_sweep)
    for name, values in GRID.items():
        _flag(parser, name, " ".join(f"{value:g}" for value in values), nargs="+")
    text = "cells that are also trained one after another; the time of all is extrapolated (default: 3, all if --quick)"
    parser.add_argument("--alone", metavar="N", type=int, default=None, help=text)

    about = "fp32 against bf16 and fp16: time, memory, loss, and a trace for Perfetto or chrome://tracing"
    parser = _command(commands, "profile", about, run_profile)
    _flag(parser, "lr", 2e-3)
    text = "precisions beside fp32 (default: all)"
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES), help=text)

    about = "draw the logs of runs on top of each other, or export them for TensorBoard"
    parser = commands.add_parser("curves", help=about, description=about, allow_abbrev=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run, or a log of fnopt")
    parser.add_argument("--tensorboard", metavar="DIR", type=Path, help="also write event files, a folder for each run")
    _out(parser, "curves", "nothing is trained, so it is always quick")
    parser.set_defaults(work=run_curves)

    about = "what `fnopt train` will do with these flags: updates, samples, learning rate, decay groups"
    parser = commands.add_parser("plan", help=about, description=about, allow_abbrev=False)
    parser.add_argument(
        "--out", metavar="DIR", default="runs/plan", help="folder of the results (default: %(default)r)"
    )
    add_flags(parser)
    parser.set_defaults(work=run_plan)


def run_compare(typed: argparse.Namespace) -> int:
    """`fnopt compare`."""
    config = _config(typed, "compare")
    if typed.clip is not None:
        attrs.evolve(config, clip=typed.clip)  # refuses what is out of its range
    options: dict[str, Any] = {"weight_decay": config.weight_decay, "clip": typed.clip, "compile": not typed.eager}
    return publish(compare(task_of(config), config.updates, told=_tell, **options), typed.out, "compare")


def run_sweep(typed: argparse.Namespace) -> int:
    """`fnopt sweep`."""
    values = {**(QUICK_GRID if typed.quick else GRID)}
    values |= {name: tuple(getattr(typed, name)) for name in GRID if hasattr(typed, name)}
    config = _config(typed, "sweep", leave=GRID)
    for name, numbers in values.items():
        for number in numbers:
            attrs.evolve(config, **{name: number})  # refuses what is out of its range
    cells = grid(values["lr"], values["weight_decay"], values["clip"])
    alone = typed.alone if typed.alone is not None else None if typed.quick else 3
    task = task_of(config)
    found = sweep(task, cells, config.updates, compile=not typed.eager, alone=alone, told=_tell)
    return publish(found, typed.out, "sweep")


def run_profile(typed: argparse.Namespace) -> int:
    """`fnopt profile`."""
    config, trace = _config(typed, "profile"), Path(typed.out) / "trace.json"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"lr": config.lr, "precisions": typed.precision, "compile": not typed.eager}
    return publish(profile(task_of(config, device), config.updates, trace, told=_tell, **options), typed.out, "profile")


def run_curves(typed: argparse.Namespace) -> int:
    """`fnopt curves`."""
    found = curves(typed.runs)
    if typed.tensorboard is not None:
        for folder in found.export(typed.tensorboard):
            _tell(f"wrote event files into {folder}")
        _tell(f"look at them with: tensorboard --logdir {typed.tensorboard}")
    return publish(found, typed.out, "curves")


def run_plan(typed: argparse.Namespace) -> int:
    """`fnopt plan`."""
    return publish(preview(from_flags(typed)), typed.out, "plan")


def preview(config: Config) -> Preview:
    """What `fnopt train` will do with this config."""
    job, c = make_job(config, read_text(config.data)), config
    optimizer, params = cast(Any, job.step).optimizer, params_of(job.model)
    return Preview(
        about=f"GPT of {sum(leaf.numel() for leaf in params.values()):,} parameters, {threads(c.threads)}",
        plan=job.trainer.plan(),
        rates={name.removeprefix("lr/"): curve for name, curve in rate_curves(optimizer, c.updates).items()},
        groups=groups_of(optimizer, params),
        marks={"validation": c.eval_every, "checkpoint": c.save_every, "line": c.log_every},
    )


def task_of(config: Config, device: torch.device | None = None) -> Task:
    """The main job's model, loss and text, with full updates only."""
    c = config
    torch.set_num_threads(c.threads or torch.get_num_threads())
    train, held_out = (Windows(part, c.context) for part in split(read_text(c.data), c.context))
    micro_batches = None if c.micro_batches == 1 else c.micro_batches
    data = Batches(train, c.batch_size, micro_batches, seed=c.seed, tail="drop", seed_samples=False)
    judged = islice(Batches(held_out, batch_size=64, shuffle=False, seed_samples=False), HELD_OUT)
    return Task(make_model(c).to(device or torch.device("cpu")), loss, data, list(judged), unit="bytes")


def publish(found: Result, out: str, name: str) -> int:
    """Print the table, write the rows and the picture, and say where they are."""
    print(f"\n{found}\n", flush=True)
    folder = Path(out)
    write_rows(folder / f"{name}.jsonl", found.rows())
    drawn = found.draw(folder / f"{name}.png")
    traces = [file.name for file in [folder / "trace.json"] if name == "profile" and file.exists()]
    print(f"{folder}: {', '.join([f'{name}.jsonl', *traces, drawn])}", flush=True)
    return 0


def _command(commands: Any, name: str, about: str, work: Callable[[argparse.Namespace], int]) -> Any:
    parser = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
    _out(parser, name, "seconds instead of minutes, on a smaller model; other flags count as well")
    parser.add_argument("--eager", action="store_true", help="leave out what is compiled, which takes most of --quick")
    settings = {**{field.name: field.default for field in attrs.fields(Config)}, **SETTINGS[name]}
    for setting in MODEL:
        _flag(parser, setting, settings[setting], nargs="+" if setting == "data" else None)
    parser.set_defaults(work=work)
    return parser


def _out(parser: Any, name: str, quick: str) -> None:
    parser.add_argument(
        "--out", metavar="DIR", default=f"runs/{name}", help="folder of the results (default: %(default)r)"
    )
    parser.add_argument("--quick", action="store_true", help=quick)


def _flag(parser: Any, name: str, default: object, nargs: str | None = None) -> None:
    """A setting of the main job, with another default; what is not typed is not in the namespace."""
    metadata = attrs.fields_dict(Config)[name].metadata
    options: dict[str, Any] = {"metavar": metadata["unit"], "type": metadata["kind"], "default": argparse.SUPPRESS}
    text: str = metadata["text"]
    options["help"] = text if "(default:" in text else f"{text} (default: {default})"
    parser.add_argument(flag(name), nargs=nargs, **options)


def _config(typed: argparse.Namespace, name: str, leave: Iterable[str] = ()) -> Config:
    """The settings of an experiment: what is typed wins over --quick, and that over its own defaults."""
    known = {field.name for field in attrs.fields(Config)} - {"clip", *leave}
    given = {key: value for key, value in vars(typed).items() if key in known and key != "precision"}
    if "data" in given:
        given["data"] = tuple(given["data"])
    settings: dict[str, Any] = {**SETTINGS[name], **(QUICK[name] if typed.quick else {}), **given}
    return Config(**settings).resolved()


def _tell(line: str) -> None:
    print(line, flush=True)
