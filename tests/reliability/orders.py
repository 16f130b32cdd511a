"""P9: which samples a step gets is a function of seed, epoch and place in it, however one comes there."""

import random
from itertools import islice

import torch
from verdict import Verdict

import fnopt

SAMPLES = 23


def data(seed: int, workers: int = 0, micro_batches: int = 2, world_size: int = 1, rank: int = 0) -> fnopt.Batches:
    """Batches of numbers, with a smaller last item."""
    ranks = {"world_size": world_size, "rank": rank}
    return fnopt.Batches(range(SAMPLES), 3, micro_batches, seed=seed, seed_samples=False, workers=workers, **ranks)


def pure(seeds: int = 8, epochs: int = 5, workers: int = 2) -> Verdict:
    """Each item, drawn alone in random order, is the one that an iteration from any earlier place comes to, in this
    process and through workers; every epoch is a permutation, and no two of all are equal.
    """
    verdict, orders = Verdict(), set[tuple[int, ...]]()
    for seed in range(seeds):
        length = len(data(seed)) * epochs
        reference = [_plain(item) for item in islice(data(seed).iter_from(0), length)]
        places = random.Random(seed).sample(range(length), length)
        source = data(seed)
        for place in places:
            verdict.check(_plain(source.at(place)) == reference[place], f"seed {seed}: item {place} drawn alone")
            rest = map(_plain, islice(data(seed).iter_from(place), 3))
            verdict.check(list(rest)[: length - place] == reference[place : place + 3], f"seed {seed}: from {place}")
        for epoch in range(epochs):
            order = _flat(reference[epoch * len(source) : (epoch + 1) * len(source)])
            verdict.check(sorted(order) == list(range(SAMPLES)), f"seed {seed}: epoch {epoch} is no permutation")
            verdict.check(order not in orders, f"seed {seed}: epoch {epoch} repeats another order")
            orders.add(order)
    for seed in range(2):
        expected = [_plain(data(seed).at(place)) for place in range(5, 15)]
        drawn = [_plain(item) for item in islice(data(seed, workers).iter_from(5), 10)]
        verdict.check(drawn == expected, f"seed {seed}: {workers} workers")
    return verdict


def elastic(seeds: int = 4, workers: int = 2) -> Verdict:
    """The samples of each update are the same for 1, 2, 3 and 4 processes, shared out without a gap or an overlap, in
    this process and through workers; who has no part of a small last update gets a micro-batch without samples.
    """
    verdict = Verdict()
    for seed in range(seeds):
        alone = data(seed, micro_batches=4)
        places = range(2 * len(alone))
        for world_size in (1, 2, 3, 4):
            ranks = [data(seed, 0, 4, world_size, rank) for rank in range(world_size)]
            verdict.check({len(source) for source in ranks} == {len(alone)}, f"{world_size} ranks: another length")
            for place in places:
                shares = [_plain(source.at(place)) for source in ranks]
                dealt = [shares[part % world_size][part // world_size] for part in range(len(alone.at(place)))]
                rest = sum(map(len, shares)) - len(dealt)
                nothing = sum(part == [] for share in shares for part in share)
                verdict.check(dealt == _plain(alone.at(place)), f"seed {seed}: item {place} of {world_size} ranks")
                verdict.check(rest == nothing, f"seed {seed}: item {place} of {world_size} ranks is dealt out twice")
    for rank in range(3):
        expected = [_plain(data(0, 0, 4, 3, rank).at(place)) for place in range(6)]
        drawn = [_plain(item) for item in islice(data(0, workers, 4, 3, rank).iter_from(0), 6)]
        verdict.check(drawn == expected, f"rank {rank}: {workers} workers")
    return verdict


def _plain(item: list[torch.Tensor]) -> list[list[int]]:
    return [part.tolist() for part in item]


def _flat(items: list[list[list[int]]]) -> tuple[int, ...]:
    return tuple(number for item in items for part in item for number in part)
