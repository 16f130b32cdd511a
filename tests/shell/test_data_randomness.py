"""The randomness of samples in fnopt.Batches, and worker processes, which must not show in it."""

import gc
import multiprocessing
import os
import random
import signal
from itertools import islice

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from fnopt.data import Batches
from fnopt.record import same

laws = settings(deadline=None, max_examples=60)


class Noisy(Dataset):
    """Random augmentation from every generator that people draw from."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index, torch.rand(2, dtype=torch.float64), random.random(), numpy.random.randn()


class Broken(Noisy):
    """Cannot give its last sample."""

    def __getitem__(self, index):
        if index == self.size - 1:
            raise StopIteration if self.size == 3 else OSError(f"sample {index} is unreadable")
        return super().__getitem__(index)


def states():
    return torch.get_rng_state().tolist(), random.getstate(), repr(numpy.random.get_state())


@laws
@given(st.integers(0, 2**63), st.integers(1, 5), st.none() | st.integers(1, 3), st.integers(0, 3))
def test_augmentation_depends_on_seed_epoch_and_index_only(seed, batch_size, micro_batches, epoch):
    """However samples are grouped, and whatever was drawn before, a sample of an epoch is the same to the bit."""

    def samples(data):
        items = islice(data.iter_from(epoch * len(data)), len(data))
        batches = [batch for item in items for batch in (item if isinstance(item, list) else [item])]
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))

    alone = samples(Batches(Noisy(7), 1, seed=seed))
    torch.rand(3), random.random(), numpy.random.rand()
    assert same(samples(Batches(Noisy(7), batch_size, micro_batches, seed=seed)), alone)


def test_no_two_samples_share_their_noise():
    """Another index, epoch or seed: another draw, from each of the three generators."""
    items = [Batches(Noisy(10), 10, seed=seed).at(epoch) for seed in range(3) for epoch in range(3)]
    for noise in range(1, 4):
        assert len({str(row) for item in items for row in item[noise].tolist()}) == 90


def test_without_seeded_samples_the_callers_generators_are_drawn_from():
    """The negative control: with seed_samples=False a second draw differs; a dataset without noise loses nothing."""
    noisy = Batches(Noisy(4), 4, seed_samples=False)
    assert not same(noisy.at(0), noisy.at(0))
    assert same(Batches(range(9), 2, seed_samples=False).at(1), Batches(range(9), 2).at(1))


def masked(samples):
    return torch.stack(samples) * (torch.rand(len(samples)) < 0.5)


def test_a_random_collate_repeats():
    """The draws of a collate function belong to its batch: the same again, and others for another batch."""
    data = Batches(torch.ones(400), 50, collate=masked)
    drawn = [data.at(position).tolist() for position in (0, 1, 8, 0)]
    assert drawn[0] == drawn[3]
    assert len({str(mask) for mask in drawn}) == 3


def test_a_collate_draws_other_numbers_than_its_samples():
    """The draws of a batch's first sample, and of its order, are not repeated by collate."""
    data = Batches(Noisy(4), 4, collate=lambda samples: (samples[0][1], torch.rand(2, dtype=torch.float64)))
    first, own = data.at(0)
    assert not set(first.tolist()) & set(own.tolist())


@laws
@given(st.integers(1, 9), st.integers(1, 3), st.none() | st.integers(1, 3), st.integers(0, 50))
def test_the_callers_generators_are_left_alone(size, batch_size, micro_batches, position):
    """Neither order nor augmentation draws from a global generator."""
    noisy = Batches(Noisy(size), batch_size, micro_batches)
    before = states()
    noisy.at(position)
    list(islice(noisy.iter_from(position), 2))
    assert states() == before


def test_the_callers_generators_survive_a_broken_dataset():
    """They come back when a sample cannot be drawn."""
    before = states()
    with pytest.raises(OSError, match="sample 3 is unreadable"):
        list(Batches(Broken(4), 2, shuffle=False))
    assert states() == before


def test_a_stray_stop_iteration_is_no_end_of_data():
    """A dataset that raises StopIteration by mistake fails; it does not end the epoch early."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(Batches(Broken(3), 1, shuffle=False))


# Workers: processes are slow to start, so one test each


def test_workers_change_no_bit():
    """Two workers give the items of none: augmented, from the middle of an epoch into the next, tail included."""
    plain, parallel = (Batches(Noisy(11), 2, micro_batches=2, seed=5, workers=workers) for workers in (0, 2))
    before = states()
    items = list(islice(parallel.iter_from(4), 6))
    assert states() == before
    assert [len(item) for item in items] == [2, 2, 1 + 1, 2, 2, 2]
    assert same(items, list(islice(plain.iter_from(4), 6)))
    assert same(list(parallel), list(plain))


def test_workers_end_with_their_iterator_and_ignore_an_interrupt():
    """Ctrl-C, which reaches all processes of a terminal, ends no worker; dropping the iterator ends them all."""
    items = Batches(range(1000), 2, workers=2).iter_from(3)
    next(items), next(items)  # one from each worker: both have begun
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert same(list(islice(items, 8)), list(islice(Batches(range(1000), 2).iter_from(5), 8)))
    del items
    gc.collect()
    assert multiprocessing.active_children() == []


def test_an_error_in_a_worker_is_the_callers():
    """It has the type and message that it has without workers."""
    with pytest.raises(OSError, match="sample 3 is unreadable"):
        list(Batches(Broken(4), 2, shuffle=False, workers=1))
