"""The other side of the parity tests: torch.optim on the same params, the drawn data, and the comparison."""

import copy
from itertools import product

import torch
from torch import nn

from fnopt import evolve

LR_KINDS = ("float", "large float", "tensor", "schedule", "all tensors")  # five: in step with no other axis
SHAPES = {"scalar": (), "vector": (3,), "empty": (0,), "matrix": (4, 5), "cube": (2, 3, 4)}


def decaying(step):
    """A schedule: a plain function of the number of updates done."""
    return 0.1 / (1.0 + step.double())


def grid(kind, **axes):
    """Every combination of these flags."""
    return [(kind, dict(zip(axes, values, strict=True))) for values in product(*axes.values())]


def as_tensors(value):
    if isinstance(value, tuple):
        return tuple(as_tensors(item) for item in value)
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value


def pair(kind, flags, lr, floats=()):
    """The fnopt record, and the learning rate that its peer gets, as a function of the step.

    `floats` are the names of flags that stay floats where all others become tensors.
    """
    rate = {"large float": 0.5, "schedule": decaying}.get(lr, 0.01)
    if callable(rate):
        return kind(lr=rate, **flags), lambda step: float(rate(torch.tensor(step)))
    theirs = as_tensors(rate) if lr == "tensor" else rate
    ours = kind(lr=theirs, **flags)
    if lr == "all tensors":
        tensors = {name: as_tensors(value) for name, value in flags.items() if name not in floats}
        ours = evolve(ours, lr=as_tensors(rate), **tensors)
    return ours, lambda step: theirs


def draw(seed, dtype=torch.float32, steps=200, zeros=0.05, decades=3, shapes=SHAPES):
    """Params of every layout, and gradients of twice so many decades, a few of them exactly zero."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=dtype, generator=gen)

    params = {name: normal(*shape) for name, shape in shapes.items()}
    params["strided"] = normal(4, 6)[:, ::2]
    params["channels_last"] = normal(2, 3, 2, 2).to(memory_format=torch.channels_last)
    grads = {}
    for name, p in params.items():
        decade = torch.empty(steps, *p.shape).uniform_(-decades, decades, generator=gen)
        hit = torch.empty(steps, *p.shape).uniform_(generator=gen) >= zeros
        grads[name] = normal(steps, *p.shape) * (10**decade).to(dtype) * hit
    return params, [{name: grad[step] for name, grad in grads.items()} for step in range(steps)]


class Peer:
    """torch.optim, without foreach, on copies of the same params."""

    def __init__(self, kind, flags, params):
        self.leaves = {name: nn.Parameter(copy.deepcopy(p)) for name, p in params.items()}
        plain = {} if kind.__name__ == "Muon" else {"foreach": False}  # it has no other way
        self.optimizer = getattr(torch.optim, kind.__name__)(self.leaves.values(), **plain, **flags)

    def load(self, state):
        """Go on from a state of fnopt."""
        for name, leaf in self.leaves.items():
            own = {what: memory[name].clone() for what, memory in state.items() if what != "step" and name in memory}
            self.optimizer.state[leaf] = {**own, "step": state["step"].to(torch.float32)}

    def step(self, grads, lr):
        self.optimizer.param_groups[0]["lr"] = lr
        for name, leaf in self.leaves.items():
            leaf.grad = grads[name]
        self.optimizer.step()

    def memory(self, what):
        """One thing that torch remembers, by the name of the parameter; without those that have none."""
        states = {name: self.optimizer.state[leaf] for name, leaf in self.leaves.items()}
        return {name: state[what] for name, state in states.items() if state.get(what) is not None}

    def state(self, ours, t):
        """Copies of params and state, as `ours` wants them at step t."""
        params = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        state = ours.init_state(params)
        kept = {what: tensors for what in state if what != "step" and (tensors := self.memory(what))}
        copied = {what: {name: leaf.clone() for name, leaf in memory.items()} for what, memory in kept.items()}
        return params, {**state, **copied, "step": torch.tensor(t)}


def memories(params, state, peer):
    """Params and every memory of both sides, as (what, which parameter, ours, theirs)."""
    for what, mine in {"params": params, **state}.items():
        if what == "step":
            continue
        theirs = peer.leaves if what == "params" else peer.memory(what)
        assert mine.keys() == theirs.keys(), what
        for name, leaf in mine.items():
            yield what, name, leaf, theirs[name].detach()


def same_bits(a, b):
    """Same dtype, shape and bits; as in torch.equal a zero equals the zero of the other sign, and a nan any nan."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a, b) or torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def first_mismatch(ours, lr_at, peer, params, grads):
    """Where the two first differ, as (step, what, which parameter); None if nowhere."""
    state = ours.init_state(params)
    for t, grad in enumerate(grads):
        params, state = ours.update(grad, state, params)
        peer.step(grad, lr_at(t))
        assert all(int(step) == int(state["step"]) == t + 1 for step in peer.memory("step").values())
        for what, name, mine, theirs in memories(params, state, peer):
            if not same_bits(mine, theirs):
                return t, what, name
    return None


def plain_lerp(m, g, w):  # what the papers write, and negative controls put in the place of torch's operations
    return m + w * (g - m)


def plain_addcmul(v, a, b):
    return v + a * b


def plain_add(a, value, b):
    return a + value * b
