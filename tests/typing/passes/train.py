"""The first program of the README: an ordinary model and loss, composed, trained, put back."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import fnopt


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"), y.numel()


def train(model: nn.Module, dataset: TensorDataset) -> None:
    adamw = fnopt.AdamW(lr=fnopt.warmup_cosine(peak=3e-4, warmup=100, total=2_000), weight_decay=0.1)
    optimizer = fnopt.chain(
        fnopt.ClipNorm(1.0),
        fnopt.partition({"decay": adamw, "no_decay": fnopt.evolve(adamw, weight_decay=0.0)}, fnopt.decay_labels(model)),
    )
    step = fnopt.make_step(
        fnopt.accumulate(fnopt.value_and_grad(model, loss)), optimizer, loss_scale=fnopt.DynamicLossScale()
    )
    state = step.init_state(model, seed=0)
    data = fnopt.Batches(dataset, batch_size=8, micro_batches=4, seed=0)
    for state, metrics in fnopt.run(step, state, data, updates=2_000):  # noqa: B007, B020  (the idiom of the README)
        print(metrics["loss"].item())
    print(fnopt.evaluate(model, loss, state, fnopt.Batches(dataset, batch_size=8)))
    fnopt.load_into(model, state)
