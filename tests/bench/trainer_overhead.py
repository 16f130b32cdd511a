"""What drivers cost per step over a bare loop of the same work: fnopt.Trainer, Lightning's Trainer, Fabric, Accelerate.

A driver is given the same batch again and again, by a source that notes the time of every 100th batch, from the 201st
on: so what a driver does before and after its steps does not count. All take turns, in one process.
"""

import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from overhead import lightning_run
from torch import Tensor, nn
from torch.nn import functional as F
from whole_step import loss

import fnopt

WARM, STEPS, STRETCH = 200, 1201, 100
Drive = Callable[["Again"], Any]


class Again:
    """The same batch, STEPS times; when stretches of steps began."""

    def __init__(self, batch: Any):
        self.batch, self.times = batch, list[float]()

    def iter_from(self, position: int) -> Iterator[Any]:
        """For fnopt, and for the others."""
        return iter(self)

    def __iter__(self) -> Iterator[Any]:
        self.times = []
        for place in range(STEPS):
            if place >= WARM and place % STRETCH == 0:
                self.times.append(time.perf_counter())
            yield self.batch

    def __len__(self) -> int:
        return STEPS

    @property
    def microseconds(self) -> list[float]:
        """Of a step, in each stretch."""
        return [round((end - begin) / STRETCH * 1e6, 2) for begin, end in pairwise(self.times)]


def mlp() -> nn.Module:
    """16-32-4: a step is little more than what Python does for it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def batch() -> tuple[Tensor, Tensor]:
    """16 rows."""
    return torch.randn(16, 16), torch.randint(4, (16,))


def bare_step() -> Drive:
    """The compiled step in a loop."""
    model = mlp()
    step = fnopt.compiled(fnopt.make_step(fnopt.value_and_grad(model, loss), fnopt.AdamW(1e-3)))

    def drive(data: Again) -> None:
        state = step.init_state(model)
        for item in data:
            state, _ = step.step(state, item)
        _must_be_compiled(step)

    return drive


def bare_run() -> Drive:
    """The compiled step in `fnopt.run`: what the Trainer is made of."""
    model = mlp()
    step = fnopt.compiled(fnopt.make_step(fnopt.value_and_grad(model, loss), fnopt.AdamW(1e-3)))

    def drive(data: Again) -> None:
        for _ in fnopt.run(step, step.init_state(model), data, updates=STEPS):
            pass
        _must_be_compiled(step)

    return drive


def trainer(folder: Path | None = None, **options: Any) -> Drive:
    """fnopt.Trainer, at its beginning again in each round; with a folder its log is on as well."""
    model, data = mlp(), Again(None)
    if folder is not None:
        options["callbacks"] = [fnopt.callbacks.JsonlLog(folder / "log.jsonl")]
    made = fnopt.Trainer(
        model=model,
        optimizer=fnopt.AdamW(1e-3),
        loss=loss,
        train_loader=data,
        max_steps=STEPS,
        compile=True,
        **options,
    )

    def drive(source: Again) -> None:
        data.batch = source.batch
        made.state = made.step.init_state(model)
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            made.train()
        source.times = data.times
        _must_be_compiled(made.step)

    return drive


def _must_be_compiled(step: Any) -> None:
    if step.stats.mode != "compiled" or step.stats.fallback:
        raise SystemExit(f"refused, this is {step.stats}")


def _peer() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = mlp()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def _loop(model: nn.Module, optimizer: Any, backward: Callable[[Tensor], Any]) -> Drive:
    def drive(data: Again) -> None:
        for x, y in data:
            optimizer.zero_grad()
            backward(F.cross_entropy(model(x), y))
            optimizer.step()

    return drive


def torch_loop() -> Drive:
    """The loop that all three peers stand for."""
    return _loop(*_peer(), Tensor.backward)


def fabric() -> Drive:
    """Lightning Fabric's loop."""
    import lightning as L

    own = L.Fabric(accelerator="cpu", devices=1)
    return _loop(*own.setup(*_peer()), own.backward)


def accelerate() -> Drive:
    """Accelerate's loop."""
    from accelerate import Accelerator

    own = Accelerator(cpu=True)
    return _loop(*own.prepare(*_peer()), own.backward)


def lightning() -> Drive:
    """Lightning's Trainer; logger, checkpoints, progress bar and summary off."""

    def drive(data: Again) -> None:
        trainer, module = lightning_run(mlp(), lr=1e-3)
        trainer.fit(module, train_dataloaders=data)

    return drive


def drivers(folder: Path) -> dict[str, Callable[[], Drive]]:
    """All of them, by name; what is missing is missing."""
    return {
        "step": bare_step,
        "run": bare_run,
        "trainer": lambda: trainer(progress=False),
        "logging": trainer,
        "log": lambda: trainer(folder),
        "loop": torch_loop,
        "lightning": lightning,
        "fabric": fabric,
        "accelerate": accelerate,
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Microseconds of a step of each, stretch by stretch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made, item = {}, batch()
        for name, make in drivers(Path(folder)).items():
            try:
                made[name] = make()
            except ImportError as error:
                print(f"{name} is missing: {error}", file=sys.stderr)
        found: dict[str, list[float]] = {name: [] for name in made}
        for place in range(-1, rounds):  # the first is to warm up, and to compile
            for name, drive in made.items():
                gc.collect()
                source = Again(item)
                drive(source)
                if place >= 0:
                    found[name] += source.microseconds
    return found
