"""What the driver costs: `run` and `compiled` per step, without the kernels; and Lightning over a plain loop.

python tests/bench/overhead.py
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from harness import Claim, Figures, main
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from whole_step import loss, mlp, mlp_batch

import fnopt

STEPS = 2000


class Again:
    """The same batch for ever."""

    def __init__(self, batch: Any):
        self.batch = batch

    def iter_from(self, position: int) -> Iterator[Any]:
        """From any position."""
        while True:
            yield self.batch


def deep() -> nn.Module:
    """As many layers as make 50 tensors of a state that is not packed."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(8)])


def stretch(call: Callable[[int], Any], steps: int = 200) -> float:
    """Microseconds of one step, over a stretch of them."""
    begin = time.perf_counter()
    call(steps)
    return (time.perf_counter() - begin) / steps * 1e6


def ours(model: nn.Module, batch: Any, optimizer: Any) -> float:
    """Microseconds per step of `run` over `compiled`, where the kernels return at once what they returned before."""
    step = fnopt.compiled(fnopt.make_step(fnopt.value_and_grad(model, loss), optimizer))
    held = [step.init_state(model)]

    def drive(steps: int) -> None:
        for done, (state, _) in enumerate(fnopt.run(step, held[0], Again(batch), updates=10**9), start=1):
            held[0] = state
            if done == steps:
                return

    drive(5)
    if step.stats.mode != "compiled":
        raise SystemExit(f"refused, this is {step.stats}")
    program = next(iter(step.engine._cache._entries.values())).program
    kernels, returned = program.kernels, []

    def noted(*inputs: Tensor) -> Any:
        returned[:] = [kernels(*inputs)]
        return returned[0]

    object.__setattr__(program, "kernels", noted)
    drive(1)
    object.__setattr__(program, "kernels", lambda *_: returned[0])
    return statistics.median(stretch(drive, 1000) for _ in range(30))


def lightning_run(model: nn.Module, **adamw: Any) -> tuple[Any, Any]:
    """Lightning's Trainer with logger, checkpoints, progress bar and summary off, and a module for it."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), **adamw)

    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(max_epochs=1, accelerator="cpu", devices=1, **off), Module()


def lightning() -> float:
    """Microseconds per step of Lightning's Trainer, less those of the same loop written by hand."""
    x, y = mlp_batch()
    batches = DataLoader([(x, y)] * STEPS, batch_size=None)
    trainer, module = lightning_run(mlp(), lr=1e-3, fused=True)
    begin = time.perf_counter()
    trainer.fit(module, train_dataloaders=batches)
    whole = (time.perf_counter() - begin) / STEPS * 1e6
    model, optimizer = module.model, torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    model.train()

    def loop(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return whole - statistics.median(stretch(loop) for _ in range(30))


def small() -> float:
    """Ours, with up to 10 buffers."""
    return ours(mlp(), mlp_batch(), fnopt.SGD(1e-3, momentum=0.9))


def large() -> float:
    """Ours, with about 50 buffers: Adafactor is not packed."""
    return ours(deep(), (torch.randn(4, 8), torch.randint(8, (4,))), fnopt.Adafactor(1e-3))


def against_lightning() -> Figures:
    """Both, on the MLP."""
    return Figures(small(), lightning())


WHAT = "run and compiled, per step, without the kernels"
CLAIMS = [
    Claim("overhead", WHAT, "15 us", 1.0, lambda: Figures(small(), 15.0), threads=1, unit="us"),
    Claim("overhead_50", "the same, 50 buffers", "40 us", 1.0, lambda: Figures(large(), 40.0), threads=1, unit="us"),
    Claim(
        "overhead_lightning",
        WHAT,
        "Lightning's Trainer over a plain loop",
        0.15,
        against_lightning,
        threads=1,
        unit="us",
    ),
]


if __name__ == "__main__":
    main(CLAIMS)
