"""A small model under each class of fnopt.optim, what it is at a moment, and ways to damage a state of it."""

import copy

from contract_cases import differs, draw
from torch import nn

from fnopt import optim

FLAGS = {
    "AdamW": {"amsgrad": True},
    "Adam": {"weight_decay": 0.1},
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {},
    "Adafactor": {},
    "Muon": {"ns_steps": 1},
}
SEVEN = tuple(FLAGS)
MOMENT = {
    "AdamW": "exp_avg_sq",
    "Adam": "exp_avg",
    "SGD": "momentum_buffer",
    "RMSprop": "square_avg",
    "Adagrad": "sum",
    "Adafactor": "row_var",
    "Muon": "momentum_buffer",
}
NAMES = ("first", "second", "third")
SHAPES = {"first": (4, 3), "second": (4, 3), "third": (3, 2)}


def network(names=NAMES):
    """A module with three matrices, two of one shape, under these names in this order."""
    shapes = [SHAPES.get(name, (4, 3)) for name in names]
    return nn.ParameterDict(
        {name: draw(shape, 1, place) for place, (name, shape) in enumerate(zip(names, shapes, strict=True))}
    )


def groups(model, count=1):
    """Its named parameters as that many param groups."""
    named = list(model.named_parameters())
    return named if count == 1 else [{"params": named[:1], "lr": 0.05}, {"params": named[1:]}]


def made(name, count=1, model=None, module=optim, **flags):
    """An optimizer of a class, and its model."""
    model = network() if model is None else model
    return getattr(module, name)(groups(model, count), **{**FLAGS[name], **flags}), model


def train(optimizer, model, times):
    """One step per time, on gradients that go by the names of the parameters."""
    for time in times:
        for name, param in model.named_parameters():
            param.grad = 0.3 * param.detach() + draw(param.shape, 2, sum(map(ord, name)), time)
        optimizer.step()


def trained(name, steps=3, **more):
    """The same, after some steps."""
    optimizer, model = made(name, **more)
    train(optimizer, model, range(steps))
    return optimizer, model


def saved(name, **more):
    """A state of its own of a trained one."""
    return copy.deepcopy(trained(name, **more)[0].state_dict())


def look(optimizer, model):
    """Everything that a refused load must not have touched, as a copy; hooks as they are."""
    hooks = [list(getattr(optimizer, key)) for key in vars(optimizer) if key.endswith("hooks")]
    found = {"weights": dict(model.named_parameters()), "state": optimizer.state_dict()}
    return {**copy.deepcopy(found), "hooks": hooks, "ids": [id(state) for state in optimizer.state.values()]}


def assert_untouched(before, after):
    """Not one bit, key or hook is another."""
    difference = differs(after, before)
    assert difference is None, difference


def by_names(optimizer, model):
    """State and weights by the names of the parameters."""
    named = sorted(model.named_parameters())
    return {name: (param.detach(), dict(optimizer.state.get(param, {}))) for name, param in named}
