"""Broken update rules: each breaks one law, in a way that people have broken it, and is sound but for that."""

from typing import ClassVar

import torch

from fnopt import record
from fnopt._torch import inside_transform
from fnopt.tensors import global_norm, tmap


class Sound:
    """Momentum descent as a user might write it: a plain class, every leaf in its own dtype."""

    scope = "element"

    def __init__(self, lr=0.1):
        self.lr = lr

    def init_state(self, params):
        return {"step": torch.zeros((), dtype=torch.int64), "sum": tmap(torch.zeros_like, params)}

    def update(self, grads, state, params):
        total = {name: 0.5 * state["sum"][name] + grads[name].to(p.dtype) for name, p in params.items()}
        new = {name: self.moved(p, total[name], name, grads) for name, p in params.items()}
        return new, {"step": state["step"] + 1, "sum": total}

    def moved(self, p, direction, name, grads):
        return p - self.lr * direction


class WritesToItsState(Sound):
    def update(self, grads, state, params):
        for name, grad in grads.items():
            state["sum"][name].add_(grad)
        return tmap(torch.sub, params, state["sum"]), {
            "step": state["step"] + 1,
            "sum": tmap(torch.clone, state["sum"]),
        }


class WritesTheSameValues(Sound):
    def update(self, grads, state, params):
        for grad in grads.values():
            grad.copy_(grad.clone())
        return super().update(grads, state, params)


class EmptiesItsGrads(Sound):
    def update(self, grads, state, params):
        result = super().update(dict(grads), state, params)
        grads.clear()
        return result


class CountsInATensor(Sound):
    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(())

    def moved(self, p, direction, name, grads):
        self.calls += 1
        return super().moved(p, direction, name, grads)


class RemembersParamsThemselves(Sound):
    def init_state(self, params):
        return {**super().init_state(params), "slow": dict(params)}

    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, "slow": tmap(torch.clone, params)}


class ReturnsOneTensorTwice(RemembersParamsThemselves):
    def init_state(self, params):
        return {**super().init_state(params), "slow": tmap(torch.clone, params)}

    def update(self, grads, state, params):
        new, after = Sound.update(self, grads, state, params)
        return new, {**after, "slow": dict(new)}


class DrawsNoise(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * direction * (1 + torch.rand(()).to(p.dtype))


class DrawsNoiseAndHidesIt(Sound):
    """The generator is given back, so that only the draws tell."""

    def moved(self, p, direction, name, grads):
        with torch.random.fork_rng(devices=[]):
            return p - self.lr * direction * (1 + torch.rand(()).to(p.dtype))


class CountsInPython(Sound):
    calls = 0

    def moved(self, p, direction, name, grads):
        self.calls += 1
        return p - self.lr / self.calls * direction


class AsksATensor(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * direction if direction.sum() > 0 else p - 2 * self.lr * direction


class IsOtherUnderVmap(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * direction * (2 if inside_transform() else 1)


@record
class ReadsItsNumber:
    """A record whose number works as a float only."""

    lr: float = 0.1
    scope: ClassVar = "element"

    def init_state(self, params):
        return {}

    def update(self, grads, state, params):
        return {name: p - float(self.lr) * grads[name].to(p.dtype) for name, p in params.items()}, {}


@record
class SharesItsNumber(ReadsItsNumber):
    """Under vmap all members get one number."""

    def update(self, grads, state, params):
        lr = 0.1 if inside_transform() else float(self.lr)
        return {name: p - lr * grads[name].to(p.dtype) for name, p in params.items()}, {}


class DecaysWithoutLr(Sound):
    def moved(self, p, direction, name, grads):
        return p * (1 - 0.01) - self.lr * direction


class MovesByAFloor(Sound):
    def moved(self, p, direction, name, grads):
        return p - max(self.lr, 1e-3) * direction


class KnowsPlaces(Sound):
    """Hyperparameters by position, as in param_groups."""

    def moved(self, p, direction, name, grads):
        return p - (1.0 if name == next(iter(grads)) else 0.1) * self.lr * direction


class NormalizesByTheWhole(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * direction / (1 + global_norm(grads)).to(p.dtype)


class NormalizesByTheLeaf(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * direction / (1 + direction.float().norm()).to(p.dtype)


class KnowsTheFirstEntry(Sound):
    def moved(self, p, direction, name, grads):
        mask = torch.zeros_like(p)
        mask.flatten()[:1] = 1
        return p - self.lr * direction * mask


class BreaksOnce(CountsInPython):
    """Only its tenth step is off."""

    def moved(self, p, direction, name, grads):
        self.calls += 1
        return p - self.lr * direction + (self.calls == 10)


class KnowsNames(Sound):
    """No step for what is called a bias."""

    def moved(self, p, direction, name, grads):
        return p if name == "b" else super().moved(p, direction, name, grads)


class RemembersByPlace(Sound):
    """The memory of the first parameter, of the second, as in a list."""

    def init_state(self, params):
        return {
            **super().init_state(params),
            "sum": {str(at): torch.zeros_like(p) for at, p in enumerate(params.values())},
        }

    def update(self, grads, state, params):
        named = dict(zip(params, state["sum"].values(), strict=True))
        new, after = super().update(grads, {**state, "sum": named}, params)
        return new, {**after, "sum": dict(zip(state["sum"], after["sum"].values(), strict=True))}


class MovesWithoutAGradient(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * (direction + 1e-3)


class PrefersADirection(Sound):
    """A sign of 0 that is 1."""

    def moved(self, p, direction, name, grads):
        return p - self.lr * torch.where(direction >= 0, 1.0, -1.0).to(p.dtype)


class Ascends(Sound):
    def moved(self, p, direction, name, grads):
        return p + self.lr * direction


class ForgetsItsMemory(Sound):
    """Hands on the state that it got, with the count."""

    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, "sum": tmap(torch.clone, state["sum"])}


class ReadsAStaleClock(Sound):
    """Counts first, and then asks the schedule."""

    def update(self, grads, state, params):
        lr = self.lr(state["step"] + 1) if callable(self.lr) else self.lr
        return Sound(float(lr)).update(grads, state, params)


@record
class DividesByARoot:
    """The root of a second moment, whose derivative at 0 is infinite."""

    lr: float = 0.1
    scope: ClassVar = "element"

    def init_state(self, params):
        return {"square": tmap(torch.zeros_like, params)}

    def update(self, grads, state, params):
        square = {name: old + grads[name].to(old.dtype) ** 2 for name, old in state["square"].items()}
        new = {name: p - self.lr * grads[name].to(p.dtype) / (square[name].sqrt() + 1e-8) for name, p in params.items()}
        return tmap(lambda leaf, p: leaf.to(p.dtype), new, params), {"square": square}
