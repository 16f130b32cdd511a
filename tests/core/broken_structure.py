"""Update rules whose results or states are of another form than they should be."""

from collections import OrderedDict

import torch
from broken_rules import Sound

from fnopt.tensors import tmap


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
