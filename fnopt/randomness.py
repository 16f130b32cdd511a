"""Randomness as a function of integers: a seed for every place in a run, and generators given back as they were."""

import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch

_WORD = 2**64 - 1
_notes: list[list[int]] = []  # those who ask which seeds are used


def mix(*integers: int) -> int:
    """One seed from any integers, such as (seed, epoch, index): 0 <= mix < 2**63, the same on every machine, for ever.

    Order and number count: mix(1, 2), mix(2, 1) and mix(1, 2, 0) are unrelated. Integers count modulo 2**64.

    >>> mix(0, 1), mix(1, 0)
    (1534736266818221247, 3395948882924712079)

    Source: the output function of SplitMix64 (Steele, Lea & Flood 2014), once per integer.
    """
    word = 0
    for integer in integers:
        word = (word + integer + 0x9E3779B97F4A7C15) & _WORD
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
        word ^= word >> 31
    return word >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Generator[None]:
    """Inside, torch's global generators of the CPU and of `device` start from `seed`; after, they are as before.

    Two blocks of the same seed draw the same numbers, and no draw outside changes: also when the block raises.
    A generator of another accelerator is left alone, and on a CPU device no accelerator is woken up.

    >>> with seeded(0, torch.device("cpu")):
    ...     a = torch.rand(3)
    >>> with seeded(0, torch.device("cpu")):
    ...     print(torch.equal(a, torch.rand(3)))
    True
    """
    for seen in _notes:
        seen.append(seed)
    generators = _generators(device)
    before = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


@contextmanager
def noted_seeds() -> Generator[list[int]]:
    """Gives a list of the seeds of all `seeded` blocks inside: a trace holds none, and must be told what to seed.

    >>> with noted_seeds() as seeds, seeded(7, torch.device("cpu")):
    ...     print(seeds)
    [7]
    """
    seen: list[int] = []
    _notes.append(seen)
    try:
        yield seen
    finally:
        _notes.pop()


@contextmanager
def borrowed_generators() -> Generator[Callable[[int], None]]:
    """Gives a function that seeds the global generators that datasets draw from; restores the caller's at the end.

    Once per batch, because to save and restore numpy's costs forty times a seeding.
    """
    numpy: Any = sys.modules.get("numpy")  # nobody draws from what nobody imported
    before = torch.default_generator.get_state(), random.getstate(), numpy and numpy.random.get_state()

    def seed_all(seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)

    try:
        yield seed_all
    finally:
        torch.default_generator.set_state(before[0])
        random.setstate(before[1])
        if numpy:
            numpy.random.set_state(before[2])


def _generators(device: torch.device) -> list[torch.Generator]:
    # the generators themselves: `torch.manual_seed` costs a hundred times theirs, and the `set_rng_state` of an
    # accelerator clones the state, which a trace on fake tensors would make a fake tensor
    cpu = torch.default_generator
    if device.type in ("cpu", "meta"):
        return [cpu]
    module: Any = torch.get_device_module(device)
    if device.type == "mps":  # has one generator, and no public name for it
        return [cpu, module._get_default_mps_generator()]
    index = cast("int | None", device.index)
    current = module.current_device()  # wakes the accelerator up: before, it has no generators
    return [cpu, module.default_generators[current if index is None else index]]
