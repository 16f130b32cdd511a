"""Broken wrappers of optimizers."""

import torch

from fnopt import SGD, ClipValue
from fnopt.rules.ema import Ema
from fnopt.rules.partition import Freeze, Partition
from fnopt.tensors import global_norm, tmap
from fnopt.transforms.chain import ChainedTransform


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


class EmaThatLeaksItsDtype(Ema):
    """Evaluates in float32, whatever params are."""

    def eval_params(self, state, params):
        return dict(state["ema"])


def ema_that_leaks_its_dtype():
    return EmaThatLeaksItsDtype(SGD(0.1), 0.9)


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
