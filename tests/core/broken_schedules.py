"""Broken schedules."""

import torch

from fnopt import record
from fnopt._torch import inside_transform


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


@record
class Overshoots:
    """Warm-up by a line that does not end."""

    peak: float = 0.1

    def __call__(self, step):
        return self.peak * step.double() / 10
