"""A small classification, and Trainers of it."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fnopt
from fnopt.tensors import tensor_map


def dataset(size=22, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long())


def model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def loss(model, batch):
    x, y = batch
    logits = model(x)
    return F.cross_entropy(logits, y, reduction="sum"), len(y), {"accuracy": (logits.argmax(-1) == y).sum()}


def loaders(**changes):
    train = DataLoader(dataset(), batch_size=4, shuffle=True, **changes)
    return {"train_loader": train, "val_loader": DataLoader(dataset(10, seed=1), batch_size=4)}


def trainer(**arguments):
    """A Trainer of 3 epochs of 6 updates (the last of 2 samples), unless told otherwise."""
    own = arguments.setdefault("model", model())
    given = {"optimizer": fnopt.AdamW(0.05), "loss": loss, "progress": False, **loaders(), **arguments}
    if not {"max_epochs", "max_steps"} & given.keys():
        given["max_epochs"] = 3
    return fnopt.Trainer(**{"model": own, **given})


def trained(**arguments):
    """The state at the end."""
    made = trainer(**arguments)
    made.train()
    return made.state


def bits(state):
    """The same state with plain tensors, whatever it came from."""
    return tensor_map(lambda leaf: leaf.clone(), state)


class Recorder:
    """A callback that notes every event."""

    def __init__(self):
        self.events, self.views, self.metrics = [], [], []

    def on_update(self, view):
        self.events.append("update")
        self.views.append((view.position, view.epoch, view.updates, view.total))
        self.metrics.append({name: value.item() for name, value in view.metrics.items()})

    def on_validate(self, view):
        self.events.append("validate")

    def on_save(self, view):
        self.events.append("save")
