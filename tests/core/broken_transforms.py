"""Broken clips and other transforms."""

import torch
from broken_rules import Sound

from fnopt.tensors import global_norm, tmap


class Clip:
    """A sound clip of its own, by norm or by value; `scale` and `clamp` are what the broken ones change."""

    scope = "global"

    def __init__(self, max_norm=1.0):
        self.max_norm = max_norm

    def init_state(self, params):
        return {}

    def transform(self, grads, state, params):
        norm = global_norm(grads).double()
        return {name: self.clipped(g, norm, grads) for name, g in grads.items()}, {}

    def clipped(self, g, norm, grads):
        return (g.double() * (self.max_norm / norm.clamp(min=self.max_norm))).to(g.dtype)


class ClipsByMean(Clip):
    def clipped(self, g, norm, grads):
        count = sum(leaf.numel() for leaf in grads.values())
        return super().clipped(g, norm / count**0.5, grads)


class ClipsEachLeaf(Clip):
    def clipped(self, g, norm, grads):
        return super().clipped(g, g.double().norm(), grads)


class ClipsFromBelow(Clip):
    """Begins to scale well before the bound."""

    def clipped(self, g, norm, grads):
        return (g.double() * (self.max_norm / (norm + 0.6 * self.max_norm)).clamp(max=1.0)).to(g.dtype)


class ClipsEntries(Clip):
    def clipped(self, g, norm, grads):
        most = self.max_norm / max(1, sum(leaf.numel() for leaf in grads.values())) ** 0.5
        return g.clamp(-most, most)


class AlwaysNormalizes(Clip):
    def clipped(self, g, norm, grads):
        return (g.double() * self.max_norm / norm.clamp(min=1e-30)).to(g.dtype)


class Squashes(Clip):
    """Softly bounded: below the bound too it changes something, and twice is not once."""

    def clipped(self, g, norm, grads):
        return (g.double() * self.max_norm / (self.max_norm + norm)).to(g.dtype)


class Clamp:
    scope = "element"

    def __init__(self, max_value=1.0):
        self.max_value = max_value

    def init_state(self, params):
        return {}

    def transform(self, grads, state, params):
        return tmap(self.clamped, grads), {}

    def clamped(self, g):
        return g.clamp(-self.max_value, self.max_value)


class ClampsOneSide(Clamp):
    def clamped(self, g):
        return g.clamp(max=self.max_value)


class ClampsTheMagnitude(Clamp):
    def clamped(self, g):
        return g.abs().clamp(max=self.max_value)


class ClampsNanAway(Clamp):
    def clamped(self, g):
        return super().clamped(g.nan_to_num())


class TanhClamp(Clamp):
    def clamped(self, g):
        return torch.tanh(g / self.max_value) * self.max_value


class GlobalByLeaf(Sound):
    """A transform that says that it sums over all entries, and sums over each leaf."""

    scope = "global"
    update = None

    def transform(self, grads, state, params):
        return {name: (g / (1 + g.double().norm())).to(g.dtype) for name, g in grads.items()}, state
