"""Broken GradFns and steps; each is a sound one of fnopt but for one method."""

import torch
from broken_formulas import Formula

from fnopt import StaticLossScale, compiled, evolve, record, value_and_grad
from fnopt.accumulate import add
from fnopt.step import Step, mean
from fnopt.tensors import tmap

BATCH = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]])
CALLED = {"model": {"w": torch.tensor([0.5, -0.5])}, "batch": BATCH}
LISTED = {**CALLED, "batch": [BATCH, BATCH[:2]]}


def loss(params, batch):
    """A sum over rows and their number."""
    return ((params["w"] * batch).sum(-1) - 1.0).square().sum(), len(batch)


def bare_mean(params, batch):
    """The commonest mistake: a mean, over a weight of 1."""
    return ((params["w"] * batch).sum(-1) - 1.0).square().mean(), 1


SOUND = value_and_grad(loss)


@record
class Sound:
    """A GradFn that changes what another gives."""

    def __call__(self, state, batch):
        return self.changed(SOUND(state, batch), state, batch)

    def changed(self, graded, state, batch):
        return graded


@record
class DrawsFromTheGlobalGenerator(Sound):
    def changed(self, graded, state, batch):
        return evolve(graded, grads=tmap(lambda leaf: leaf + torch.rand(()), graded.grads))


@record
class WritesToTheBatch(Sound):
    def changed(self, graded, state, batch):
        batch.mul_(2)
        return graded


@record
class AnswersInHalf(Sound):
    def changed(self, graded, state, batch):
        return evolve(graded, grads=tmap(lambda leaf: leaf.bfloat16(), graded.grads))


@record
class DropsAKey(Sound):
    def changed(self, graded, state, batch):
        return evolve(graded, grads={})


@record
class WeighsAtLeastOne(Sound):
    """A guard against division by 0 that makes nothing into something."""

    def changed(self, graded, state, batch):
        return evolve(graded, weight=graded.weight.clamp(min=1.0))


@record
class ForgetsToUnscale(Sound):
    def changed(self, graded, state, batch):
        scale = state.loss_scale.get("scale", torch.ones(()))
        return evolve(graded, grads=tmap(lambda leaf: leaf * scale, graded.grads))


@record
class MeanOfMeans:
    """Accumulation as it is usually written: every micro-batch counts the same."""

    def __call__(self, state, batches):
        total = None
        for batch in batches:
            graded = SOUND(state, batch)
            share = evolve(graded, grads=tmap(lambda leaf: leaf / graded.weight, graded.grads))
            total = share if total is None else add(total, share)
        return evolve(total, grads=tmap(lambda leaf: leaf / len(batches) * total.weight, total.grads))


def means_as_sums():
    return value_and_grad(bare_mean)


@record
class BrokenStep(Step):
    """A sound step, in whose result something is changed."""

    def step(self, state, batch):
        new, metrics = super().step(state, batch)
        return self.changed(new, metrics, state, batch), metrics

    def changed(self, new, metrics, state, batch):
        return new


@record
class SkipsByMultiplication(BrokenStep):
    """0 times nan is nan."""

    def changed(self, new, metrics, state, batch):
        grads = mean(self.grad_fn(state, batch), metrics["weight"] > 0)
        params, _ = self.optimizer.update(grads, state.opt_state, state.params)
        applied = 1.0 - metrics["skipped"]
        return evolve(new, params={name: old + applied * (params[name] - old) for name, old in state.params.items()})


@record
class RemembersTheSkip(BrokenStep):
    """Something of the skipped update stays, where nobody looks."""

    def changed(self, new, metrics, state, batch):
        return evolve(new, extra={"skips": state.extra.get("skips", torch.zeros(())) + metrics["skipped"]})

    def step(self, state, batch):
        new, metrics = super().step(state, batch)
        slower = 1.0 / (1.0 + new.extra["skips"])
        params = {name: old + slower * (new.params[name] - old) for name, old in state.params.items()}
        return evolve(new, params=params), metrics


@record
class DecaysOnNothing(BrokenStep):
    def changed(self, new, metrics, state, batch):
        return new if metrics["weight"] > 0 else evolve(new, params=tmap(lambda leaf: leaf * 0.99, new.params))


@record
class CountsSkips(BrokenStep):
    def changed(self, new, metrics, state, batch):
        return evolve(new, updates=state.updates + 1)


@record
class ForgetsToMoveOn(BrokenStep):
    def changed(self, new, metrics, state, batch):
        return evolve(new, position=state.position)


@record
class StepsAlongTheSum(BrokenStep):
    """No division by the weight."""

    def changed(self, new, metrics, state, batch):
        grads = self.grad_fn(state, batch).grads
        params, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        return evolve(new, params=params, opt_state=opt_state)


class CountsInPython(BrokenStep):
    """A schedule that no checkpoint knows of."""

    def changed(self, new, metrics, state, batch):
        calls = self.__dict__.setdefault("_calls", [])
        calls.append(None)
        return evolve(new, params=tmap(lambda leaf: leaf * (1 - 1e-3 * len(calls)), new.params))


@record
class ReadsThePosition(Sound):
    """What a trace takes for constant."""

    def changed(self, graded, state, batch):
        return evolve(graded, grads=tmap(lambda leaf: leaf * (1 + state.position), graded.grads))


def compiled_for_one_position():
    return compiled(Step(ReadsThePosition(), Formula(eps=1.0), StaticLossScale()))


def stepping(kind):
    """A step of that kind, named after it."""

    def make():
        return kind(SOUND, Formula(), StaticLossScale())

    make.__name__ = kind.__name__
    return make


def sound_step():
    return Step(SOUND, Formula(), StaticLossScale())
