"""AdamW as people have got it wrong; each class changes one line of a sound one."""

from typing import ClassVar

import torch

from fnopt import record
from fnopt.tensors import sqrt, tmap, widen


@record
class Formula:
    """AdamW, a line for each line of the paper."""

    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01

    scope: ClassVar = "element"
    decoupled_weight_decay: ClassVar = True

    def init_state(self, params):
        zeros = tmap(torch.zeros_like, widen(params))
        return {"step": torch.zeros((), dtype=torch.int64), "m": zeros, "v": tmap(torch.clone, zeros)}

    def update(self, grads, state, params):
        t, new, m, v = state["step"] + 1, {}, {}, {}
        for name, p in widen(params).items():
            g = self.pulled(grads[name].to(p.dtype), p)
            m[name], v[name] = (leaf.to(p.dtype) for leaf in self.moments(g, state["m"][name], state["v"][name]))
            change = self.lr * self.direction(m[name], v[name], t.double())  # a float to the power of an int is float32
            new[name] = self.moved(p, change).to(params[name].dtype)
        return new, {"step": t, "m": m, "v": v}

    def pulled(self, g, p):
        return g

    def moments(self, g, m, v):
        b1, b2 = self.betas
        return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g

    def direction(self, m, v, t):
        b1, b2 = self.betas
        return m / (1 - b1**t) / self.divisor(v / (1 - b2**t))

    def divisor(self, v):
        return sqrt(v) + self.eps

    def moved(self, p, change):
        return p * (1 - self.lr * self.weight_decay) - change


@record
class WrongBiasCorrection(Formula):
    """One power of beta too few."""

    def direction(self, m, v, t):
        return super().direction(m, v, t + 1)


@record
class SwappedBetas(Formula):
    def moments(self, g, m, v):
        b2, b1 = self.betas
        return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g


@record
class L2InPlaceOfDecoupled(Formula):
    def pulled(self, g, p):
        return g + self.weight_decay * p

    def moved(self, p, change):
        return p - change


@record
class DecaysAfterTheStep(Formula):
    def moved(self, p, change):
        return (p - change) * (1 - self.lr * self.weight_decay)


@record
class EpsInsideTheRoot(Formula):
    def divisor(self, v):
        return sqrt(v + self.eps)


@record
class FixedEps(Formula):
    """An eps of its own, whatever the field says."""

    def divisor(self, v):
        return sqrt(v) + 1e-3
