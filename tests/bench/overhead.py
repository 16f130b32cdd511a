"""What the driver costs: `run` and `compiled` per step, over the bare call of the kernels; and Lightning over its loop.

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


def per_step(call: Callable[[int], Any]) -> float:
    """Microseconds of one step, the median of 15 stretches of `STEPS` / 10."""
    stretches = []
    for _ in range(15):
        begin = time.perf_counter()
        call(STEPS // 10)
        stretches.append((time.perf_counter() - begin) / (STEPS // 10) * 1e6)
    return statistics.median(stretches)


def ours(model: nn.Module, batch: Any, optimizer: Any) -> float:
    """Microseconds per step of `run` over `compiled`, less those of the kernels alone."""
    step = fnopt.compiled(fnopt.make_step(fnopt.value_and_grad(model, loss), optimizer))
    held = [step.init_state(model)]
    kernels: list[Any] = []

    def drive(steps: int) -> None:
        target = int(held[0].updates) + steps
        for state, _ in fnopt.run(step, held[0], Again(batch), updates=target):
            held[0] = state

    drive(5)
    entry = next(iter(step.engine._cache._entries.values()))
    original = entry.program.kernels

    def noted(*inputs: Tensor) -> Any:
        kernels[:] = [inputs]
        return original(*inputs)

    object.__setattr__(entry.program, "kernels", noted)
    drive(1)
    object.__setattr__(entry.program, "kernels", original)

    def bare(steps: int) -> None:
        for _ in range(steps):
            original(*kernels[0])

    alone = per_step(bare)
    return per_step(drive) - alone


def lightning() -> float:
    """Microseconds per step of Lightning's Trainer, less those of the same loop written by hand."""
    import lightning as L

    x, y = mlp_batch()

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

    batches = [(x, y)] * STEPS
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **options)
    module = Module()
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

    return whole - per_step(loop)


def small() -> float:
    """Ours, with up to 10 buffers."""
    return ours(mlp(), mlp_batch(), fnopt.SGD(1e-3, momentum=0.9))


def large() -> float:
    """Ours, with about 50 buffers: Adafactor is not packed."""
    return ours(deep(), (torch.randn(4, 8), torch.randint(8, (4,))), fnopt.Adafactor(1e-3))


def against_lightning() -> Figures:
    """Both, on the MLP."""
    return Figures(small(), lightning())


WHAT = "run and compiled, per step, over the kernels"
CLAIMS = [
    Claim("overhead", WHAT, "15 us", 1.0, lambda: Figures(small(), 15.0), unit="us"),
    Claim("overhead_50", "the same, 50 buffers", "40 us", 1.0, lambda: Figures(large(), 40.0), unit="us"),
    Claim("overhead_lightning", WHAT, "Lightning's Trainer over a plain loop", 0.15, against_lightning, unit="us"),
]


if __name__ == "__main__":
    main(CLAIMS)
