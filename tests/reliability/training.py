"""A run with all that a resume can lose: accumulation, dropout, autocast, loss scale, clip, EMA, schedule, shuffles."""

import hashlib
from collections.abc import Iterator
from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

import fnopt
from fnopt.checkpoint.container import memory
from fnopt.checkpoint.names import flatten
from fnopt.record import evolve
from fnopt.state import TrainState

UPDATES = 40
_WIDTH, _SAMPLES = 16, 54  # the last of 5 updates in an epoch has 2 micro-batches, of 4 and 2 samples


class Net(nn.Module):
    """Dropout draws at each step, BatchNorm has buffers, the last layer is in float32 under autocast's matmuls."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, _WIDTH), nn.BatchNorm1d(_WIDTH), nn.GELU(), nn.Dropout(0.3))
        self.head = nn.Linear(_WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of 3 classes."""
        return self.head(self.body(x))


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The summed cross entropy, and how many samples it is of."""
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="sum"), len(y)


@cache
def parts() -> tuple[fnopt.StepFn, fnopt.Batches, TrainState]:
    """Step, data and the state that a run begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, model = torch.randn(_SAMPLES, 4), Net()
        y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
    optimizer = fnopt.ema(
        fnopt.chain(
            fnopt.ClipNorm(0.5),
            fnopt.AdamW(lr=fnopt.warmup_cosine(peak=0.02, warmup=5, total=UPDATES), weight_decay=0.1),
        ),
        decay=0.9,
    )
    grad_fn = fnopt.accumulate(fnopt.autocast(fnopt.value_and_grad(model, loss), torch.bfloat16))
    scale = fnopt.DynamicLossScale(init_scale=2.0**10, growth_interval=7)
    step = fnopt.make_step(grad_fn, optimizer, loss_scale=scale)
    data = fnopt.Batches(
        torch.utils.data.TensorDataset(x, y), batch_size=4, micro_batches=3, seed=5, seed_samples=False
    )
    return step, data, step.init_state(model, seed=11)


def weighted(state: TrainState) -> TrainState:
    """The same with a megabyte that tells the position in each of its words: half a file of it is seen."""
    return evolve(state, extra={"ballast": torch.full((2**18,), float(state.position))})


def like() -> TrainState:
    """A state with the structure of the run's, and nothing else of it."""
    return evolve(parts()[2], params={name: torch.zeros_like(leaf) for name, leaf in parts()[2].params.items()}, seed=0)


def go_on(state: TrainState, updates: int = UPDATES) -> Iterator[tuple[TrainState, float]]:
    """Each state that follows, with the loss of the step that led to it."""
    step, data, _ = parts()
    for following, metrics in fnopt.run(step, state, data, updates=updates):
        yield following, float(metrics["loss"])


@cache
def uninterrupted(updates: int = UPDATES) -> tuple[list[TrainState], list[float]]:
    """The states of a run that nothing happens to, from position 0 on, and its losses."""
    states, losses = [parts()[2]], [0.0]
    for state, value in go_on(states[0], updates):
        states.append(state)
        losses.append(value)
    return states, losses


def print_of(state: TrainState) -> str:
    """A short text that two states share exactly if they are equal to the bit."""
    sha = hashlib.sha256(f"{state.position} {state.seed}".encode())
    for name, leaf in flatten("test", state).items():
        sha.update(f"{name} {None if leaf is None else (leaf.dtype, leaf.shape, leaf.stride())}".encode())
        sha.update(b"" if leaf is None else memory(leaf.contiguous()))
    return sha.hexdigest()
