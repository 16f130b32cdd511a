"""The other side of the parity tests: torch.optim on the same params, the drawn data, and the comparison."""

import copy

import torch
from torch import nn

from fnopt import SGD, Adam, AdamW

CLASSES = {AdamW: torch.optim.AdamW, Adam: torch.optim.Adam, SGD: torch.optim.SGD}
SHAPES = {"scalar": (), "vector": (3,), "empty": (0,), "matrix": (4, 5), "cube": (2, 3, 4)}


def draw(seed, dtype=torch.float32, steps=200, zeros=0.05, decades=3):
    """Params of every layout, and gradients of twice so many decades, a few of them exactly zero."""
    gen = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=dtype, generator=gen)

    params = {name: normal(*shape) for name, shape in SHAPES.items()}
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
        self.optimizer = CLASSES[kind](self.leaves.values(), foreach=False, **flags)

    def load(self, state):
        """Go on from a state of fnopt."""
        for name, leaf in self.leaves.items():
            own = {what: memory[name].clone() for what, memory in state.items() if what != "step" and memory}
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
