"""What the tests of torch files share: a model, runs of pure rules on it, and files that torch alone wrote."""

import torch
from torch import nn

import fnopt
from fnopt.record import evolve
from fnopt.state import TrainState

RULES = {
    "AdamW": fnopt.AdamW(lr=0.1, weight_decay=0.1),
    "AdamW amsgrad": fnopt.AdamW(lr=0.1, amsgrad=True),
    "Adam": fnopt.Adam(lr=0.1, weight_decay=0.01, maximize=True),
    "SGD": fnopt.SGD(lr=0.1),
    "SGD momentum": fnopt.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "RMSprop": fnopt.RMSprop(lr=0.1, momentum=0.9, centered=True),
    "Adagrad": fnopt.Adagrad(lr=0.1, lr_decay=0.01),
    "Adafactor": fnopt.Adafactor(lr=0.1),
}


class Net(nn.Module):
    """Two layers of which one is tied to an embedding, a norm, a constant that is saved, and one that is not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("cache", torch.arange(3.0), persistent=False)

    def forward(self, x):
        return self.head(self.inner(self.norm(self.embed(x))) * self.scale)


def net(seed=0):
    """A Net with its first weights."""
    torch.manual_seed(seed)
    return Net()


def grads(params, seed):
    """Gradients for these params, drawn."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(leaf.shape, generator=generator) for name, leaf in params.items()}


def trained(optimizer, model, updates=3):
    """The state of a run of a pure optimizer on drawn gradients."""
    params = fnopt.params_of(model)
    state = TrainState.of(params, buffers=fnopt.buffers_of(model), opt_state=optimizer.init_state(params), seed=5)
    for seed in range(updates):
        state = updated(optimizer, state, seed)
    return state


def updated(optimizer, state, seed):
    """One update more."""
    params, opt_state = optimizer.update(grads(state.params, seed), state.opt_state, state.params)
    return evolve(state, params=params, opt_state=opt_state, updates=state.updates + 1, position=state.position + 1)


def torch_steps(optimizer, named, seeds):
    """Updates of a torch optimizer over these named parameters with the same drawn gradients."""
    for seed in seeds:
        for name, grad in grads({name: param.detach() for name, param in named.items()}, seed).items():
            named[name].grad = grad
        optimizer.step()
