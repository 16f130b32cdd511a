"""Two runs on the same draws, torch.optim's and fnopt.optim's, and every combination of flags that they run with."""

import functools
from itertools import product

import attrs
import torch
from contract_cases import differs
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fnopt import optim

SEVEN = ("AdamW", "Adam", "SGD", "RMSprop", "Adagrad", "Adafactor", "Muon")
LR_KINDS = ("float", "large", "tensor", "by hand", "tensor by hand")  # five: in step with no other axis
LEAVES = {"scalar": (), "empty": (0,), "vector": (3,), "matrix": (4, 5), "cube": (2, 3, 4), "large": (182, 181)}
MATRICES = {"one": (1, 1), "wide": (4, 9), "tall": (9, 4), "large": (182, 181)}
POOL = 11  # prime to all periods of a run, so that no two steps have the same gradients
ADAM = {
    "betas": [(0.9, 0.999), (0.0, 0.99), (0.5, 0.0), (0.0, 0.0)],
    "weight_decay": [0.0, 0.1],
    "amsgrad": [False, True],
    "maximize": [False, True],
}
UP = {"weight_decay": [0.0, 0.1], "maximize": [False, True]}
AXES = {
    "AdamW": {"eps": [1e-8, 0.0], **ADAM},
    "Adam": {"eps": [1e-3, 1e-15], "decoupled_weight_decay": [False, True], **ADAM},
    "SGD": {"momentum": [0.0, 0.9], "dampening": [0.0, 0.6], "nesterov": [False, True], **UP},
    "RMSprop": {
        "alpha": [0.99, 0.5, 0.0],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
        "eps": [1e-8, 1e-3],
        **UP,
    },
    "Adagrad": {"lr_decay": [0.0, 0.1], "initial_accumulator_value": [0.0, 0.5], "eps": [1e-10, 1e-3, 0.0], **UP},
    "Adafactor": {"beta2_decay": [-0.8, 0.0], "eps": [(None, 1e-3), (1e-30, 1e-2), (0.1, 0.0)], "d": [1.0, 2.0], **UP},
    "Muon": {
        "weight_decay": [0.0, 0.1],
        "momentum": [0.95, 0.0],
        "nesterov": [False, True],
        "adjust_lr_fn": [None, "original", "match_rms_adamw"],
        "ns_steps": [5, 1],
    },
}


def _legal(name, flags):
    if name == "SGD":
        return not flags["nesterov"] or bool(flags["momentum"] and not flags["dampening"])
    # centered without memory is the variance of one number, whose rounding error may be negative, and its root nan
    return name != "RMSprop" or bool(flags["alpha"] or not flags["centered"])


def combinations(name):
    """Every legal combination of the flags of a class."""
    axes = AXES[name]
    found = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return [flags for flags in found if _legal(name, flags)]


def every():
    """Every combination of every class; the kinds of learning rates take turns."""
    return [
        (name, flags, kinds[place % len(kinds)])
        for name in SEVEN
        for kinds in [lr_kinds(name)]
        for place, flags in enumerate(combinations(name))
    ]


def lr_kinds(name):
    """The learning rates with which a class promises torch's bits: Adafactor does not with a tensor, in float32."""
    return tuple(kind for kind in LR_KINDS if name != "Adafactor" or not kind.startswith("tensor"))


@attrs.frozen
class Draws:
    """Parameters to copy, and gradients by step; None where a parameter has none."""

    params: dict
    pool: list

    def grads(self, t):
        """Those of step t: the second and every third parameter after it miss some steps, each others."""
        drawn = self.pool[t % POOL]
        gaps = {name for place, name in enumerate(drawn) if place % 3 == 1 and (t + place) % 5 in (0, 3)}
        return {name: None if name in gaps else g * (1 + t % 13) for name, g in drawn.items()}


@functools.lru_cache
def draw(matrices=False, dtype=torch.float32, zeros=0.05, decades=3, without=(), seed=0):
    """Parameters of every layout, and gradients of twice so many decades, a few entries exactly zero."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=dtype, generator=gen)

    params = {name: normal(*shape) for name, shape in (MATRICES if matrices else LEAVES).items()}
    params["strided"] = normal(4, 6)[:, ::2]
    if not matrices:
        params["channels_last"] = normal(2, 3, 2, 2).to(memory_format=torch.channels_last)
        params["large channels_last"] = normal(2, 8, 47, 45).to(memory_format=torch.channels_last)
    params = {name: p for name, p in params.items() if name not in without}

    def gradient(p):
        decade = torch.empty(p.shape).uniform_(-decades, decades, generator=gen)
        hit = torch.empty(p.shape).uniform_(generator=gen) >= zeros
        g = normal(*p.shape) * (10**decade).to(dtype) * hit
        last = p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last)
        return g.contiguous(memory_format=torch.channels_last) if last else g  # as autograd lays it out

    return Draws(params, [{name: gradient(p) for name, p in params.items()} for _ in range(POOL)])


def draws_for(name, flags, **more):
    """What a class can be given: eps = 0, or one whose square is 0, gets no zero gradient (0/0 on both sides)."""
    zeros = 0.0 if flags.get("eps") in (0.0, (1e-30, 1e-2)) else 0.05
    without = ("empty",) if name == "Adafactor" else ()  # torch divides by its number of entries
    return draw(matrices=name == "Muon", **{"zeros": zeros, "without": without, **more})


class Run:
    """One optimizer of `module` on its own copies of the drawn parameters, in two groups."""

    def __init__(self, module, name, flags, lr, draws):
        self.params = {key: nn.Parameter(p.clone()) for key, p in draws.params.items()}
        self.lr = lr
        listed = list(self.params.items())
        groups = [{"params": listed[:1]}, {"params": listed[1:], "lr": self._value(0.02)}]
        one_by_one = {} if name == "Muon" else {"foreach": False}  # Muon has no other way
        rate = 0.5 if lr == "large" else 0.01
        self.optimizer = getattr(module, name)(groups, lr=self._value(rate), **one_by_one, **flags)

    def _value(self, rate):
        return torch.tensor(rate) if self.lr.startswith("tensor") else rate

    def step(self, t, grads):
        """One step, with the learning rate changed before it where that is done by hand."""
        for place, group in enumerate(self.optimizer.param_groups):
            rate = 0.1 / (1 + t + place)
            if self.lr == "by hand":
                group["lr"] = rate
            elif self.lr == "tensor by hand":
                group["lr"].fill_(rate)
        for key, p in self.params.items():
            p.grad = grads[key]
        self.optimizer.step()

    def outcome(self):
        """All that is to be equal; but for the sign of a zero, in which torch's own vector loops and tails differ."""
        found = {"weights": {**self.params}, "state_dict": self.optimizer.state_dict()}
        return tree_map(lambda leaf: leaf.detach() + 0.0 if isinstance(leaf, Tensor) else leaf, found)


def as_pairs(tree):
    """The same tree with the two parts of a complex number in a last dimension."""

    def parts(leaf):
        return torch.view_as_real(leaf) if isinstance(leaf, Tensor) and leaf.is_complex() else leaf

    return tree_map(parts, tree)


def pairs(draws):
    """The same draws of complex numbers as real ones."""
    return Draws(as_pairs(draws.params), as_pairs(draws.pool))


def first_difference(name, flags, lr, steps, draws=None, theirs_in_pairs=False, finite=True):
    """Where the two first differ, as (step, text); None if nowhere."""
    draws = draws or draws_for(name, flags)
    other = pairs(draws) if theirs_in_pairs else draws
    theirs, ours = Run(torch.optim, name, flags, lr, other), Run(optim, name, flags, lr, draws)
    for t in range(steps):
        theirs.step(t, other.grads(t))
        ours.step(t, draws.grads(t))
        difference = differs(as_pairs(ours.outcome()) if theirs_in_pairs else ours.outcome(), theirs.outcome())
        if difference:
            return t, difference
    numbers = torch.cat([p.isfinite().flatten() for p in theirs.params.values()]).double().mean()
    assert numbers == 1.0 if finite else numbers > 0.9
    return None
