"""Broken things: each breaks one law, in a way that people have broken it, and is sound but for that."""

from collections import OrderedDict
from typing import ClassVar

import torch

from fnopt import SGD, ClipValue, record
from fnopt._torch import inside_transform
from fnopt.rules.ema import Ema
from fnopt.rules.partition import Freeze, Partition
from fnopt.tensors import global_norm, tmap
from fnopt.transforms.chain import ChainedTransform


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


class LeaksFloat64(Sound):
    """A 0-d leaf times a 0-d float64 number is float64; larger leaves are not."""

    def moved(self, p, direction, name, grads):
        return p - torch.tensor(self.lr, dtype=torch.float64) * direction


class AnswersInTheDtypeOfGrads(Sound):
    def moved(self, p, direction, name, grads):
        return p - self.lr * grads[name]


class DropsAKey(Sound):
    def update(self, grads, state, params):
        new, state = super().update(grads, state, params)
        return dict(list(new.items())[:2]), state


class SortsItsKeys(Sound):
    def update(self, grads, state, params):
        new, state = super().update(grads, state, params)
        return dict(sorted(new.items())), state


class ReturnsAnotherMapping(Sound):
    def update(self, grads, state, params):
        new, state = super().update(grads, state, params)
        return OrderedDict(new), state


class RequiresGrad(Sound):
    def moved(self, p, direction, name, grads):
        return super().moved(p, direction, name, grads).requires_grad_()


class FlattensScalars(Sound):
    def moved(self, p, direction, name, grads):
        return super().moved(p, direction, name, grads).reshape(p.shape or (1,))


class GrowsItsState(Sound):
    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, "last": tmap(torch.clone, grads)}


class GrowsItsStateOnTheSecondUpdate(GrowsItsState):
    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, after if state["step"] else {name: after[name] for name in ("step", "sum")}


class CountsAsAnInt(Sound):
    def init_state(self, params):
        return {"step": 0, "sum": tmap(torch.zeros_like, params)}


class RemembersInTheDtypeOfGrads(Sound):
    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, "sum": {name: sum_ + grads[name] for name, sum_ in after["sum"].items()}}


class KeepsAList(Sound):
    def init_state(self, params):
        return {"step": torch.zeros((), dtype=torch.int64), "sum": list(tmap(torch.zeros_like, params).values())}

    def update(self, grads, state, params):
        named = {**state, "sum": dict(zip(params, state["sum"], strict=True))}
        new, after = super().update(grads, named, params)
        return new, {**after, "sum": list(after["sum"].values())}


class KeysByNumber(Sound):
    def init_state(self, params):
        return {**super().init_state(params), 0: torch.zeros(1)}

    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, 0: torch.zeros(1)}


class LooksAtParamsFirst(Sound):
    """What it remembers depends on the values it began with."""

    def init_state(self, params):
        state = super().init_state(params)
        return {**state, "sum": {name: state["sum"][name] for name, p in params.items() if p.any()}}

    def update(self, grads, state, params):
        return dict(params), state


class ForgetsToCount(Sound):
    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, "step": state["step"].clone()}


class CountsFromOne(Sound):
    def init_state(self, params):
        return {**super().init_state(params), "step": torch.ones((), dtype=torch.int64)}


class CountsInFloats(Sound):
    def init_state(self, params):
        return {**super().init_state(params), "step": torch.zeros(())}


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


def nested_chain():
    """A chain in a chain that nobody flattened."""
    return ChainedTransform((ChainedTransform((ClipValue(1.0),)),))


class PartitionThatMeets(Partition):
    """Clips over all labels in a part that owns one."""

    def update(self, grads, state, params):
        norm = global_norm(grads)
        return super().update(tmap(lambda g: (g / (1 + norm)).to(g.dtype), grads), state, params)


class FreezeThatDecays(Freeze):
    def update(self, grads, state, params):
        new, state = super().update(grads, state, params)
        return {name: p if name in self._live(params) else p * 0.999 for name, p in new.items()}, state


class FreezeThatRemembers(Freeze):
    def init_state(self, params):
        return self.optimizer.init_state(params)

    def update(self, grads, state, params):
        new, state = self.optimizer.update(grads, state, params)
        return {name: new[name] if name in self._live(params) else params[name] for name in params}, state


class EmaFromZero(Ema):
    """The average before the first update is 0: biased for as long as it remembers."""

    def init_state(self, params):
        state = super().init_state(params)
        return {**state, "ema": tmap(torch.zeros_like, state["ema"])}


class EmaThatOvershoots(Ema):
    def update(self, grads, state, params):
        new, after = super().update(grads, state, params)
        return new, {**after, "ema": tmap(lambda e, old: e + 0.5 * (e - old), after["ema"], state["ema"])}


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


class Decay:
    """A sound schedule of its own."""

    def __call__(self, step):
        return 0.1 / (1 + step.double())


class StepsTheClock(Decay):
    def __call__(self, step):
        return super().__call__(step.add_(1))


class Draws(Decay):
    def __call__(self, step):
        return super().__call__(step) + 0 * torch.rand(())


class CountsItself(Decay):
    calls = 0

    def __call__(self, step):
        self.calls += 1
        return super().__call__(step) / self.calls


class Jitters(Decay):
    """Noise from the global generator, which it gives back."""

    def __call__(self, step):
        with torch.random.fork_rng(devices=[]):
            return super().__call__(step) * (1 + torch.rand(()))


class ReturnsAFloat(Decay):
    def __call__(self, step):
        return 0.1


class ReturnsAVector(Decay):
    def __call__(self, step):
        return super().__call__(step).reshape(1)


class ReturnsAnInt(Decay):
    def __call__(self, step):
        return step // 2


class EndsInNan(Decay):
    """0/0 after the end, as of a decay that divides by what is left."""

    def __call__(self, step):
        left = (10 - step.double()).clamp(min=0)
        return left / left


class AsksTheStep(Decay):
    def __call__(self, step):
        return super().__call__(step) if step < 5 else torch.zeros((), dtype=torch.float64)


class IsOtherInVmap(Decay):
    def __call__(self, step):
        return super().__call__(step) * (2 if inside_transform() else 1)


class BreaksOnce(CountsInPython):
    """Only its tenth step is off."""

    def moved(self, p, direction, name, grads):
        self.calls += 1
        return p - self.lr * direction + (self.calls == 10)


def partition_that_meets():
    return PartitionThatMeets({"x": SGD(0.1), "y": SGD(0.2)}, {"a": "x", "b": "y"})


def freeze_that_decays():
    return FreezeThatDecays(SGD(0.1), ("a",))


def freeze_that_remembers():
    return FreezeThatRemembers(SGD(0.1, momentum=0.9), ("a",))


def ema_from_zero():
    return EmaFromZero(SGD(0.1), 0.9)


def ema_that_overshoots():
    return EmaThatOvershoots(SGD(0.1), 0.1)


NAMED = (partition_that_meets, freeze_that_decays, freeze_that_remembers)  # their parameters are "a" and "b"
