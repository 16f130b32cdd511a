"""fnopt.Batches: what an item is depends on (dataset, seed, position), and on nothing else."""

import pickle
from itertools import islice

import pytest
import torch
from data_cases import batches, laws, positions
from hypothesis import given
from hypothesis import strategies as st

from fnopt.data import Batches
from fnopt.record import same


def indices(item):
    return torch.cat(item if isinstance(item, list) else [item]).tolist()


def epoch_of(data, epoch):
    return [i for item in islice(data.iter_from(epoch * len(data)), len(data)) for i in indices(item)]


# Order and position


@laws
@given(batches(tail="step"), st.integers(0, 5))
def test_an_epoch_is_a_permutation(data, epoch):
    """Every epoch holds every index exactly once."""
    assert sorted(epoch_of(data, epoch)) == list(data.dataset)


@laws
@given(batches(tail="drop"), st.integers(0, 5))
def test_a_dropped_tail_is_all_that_is_missing(data, epoch):
    """With tail="drop" an epoch holds the same order as with "step", cut after the last full window."""
    window = data.batch_size * (data.micro_batches or 1)
    whole = epoch_of(Batches(data.dataset, 1, seed=data.seed, shuffle=data.shuffle), epoch)
    assert epoch_of(data, epoch) == whole[: len(whole) // window * window]


@laws
@given(batches(tail="full"), st.integers(0, 5))
def test_a_full_tail_lacks_the_smaller_batch_only(data, epoch):
    """With tail="full" an epoch is cut after the last full micro-batch, as by a DataLoader with drop_last."""
    whole = epoch_of(Batches(data.dataset, 1, seed=data.seed, shuffle=data.shuffle), epoch)
    assert epoch_of(data, epoch) == whole[: len(whole) // data.batch_size * data.batch_size]


@laws
@given(batches(tail="step"), st.integers(0, 5))
def test_the_order_depends_on_seed_and_epoch_only(data, epoch):
    """However samples are grouped, and wherever an iterator has been before, an epoch has one order."""
    list(islice(data.iter_from(epoch + 1), 3))
    assert epoch_of(data, epoch) == epoch_of(Batches(data.dataset, 1, seed=data.seed, shuffle=data.shuffle), epoch)


@laws
@given(st.integers(0, 2**63), st.integers(0, 1000))
def test_epochs_and_seeds_have_their_own_orders(seed, epoch):
    """Two epochs of one seed, and two seeds in one epoch, are ordered differently (equal once in 40!)."""
    a, b = Batches(range(40), 40, seed=seed), Batches(range(40), 40, seed=seed + 1)
    assert len({tuple(order) for order in (epoch_of(a, epoch), epoch_of(a, epoch + 1), epoch_of(b, epoch))}) == 3


@laws
@given(batches(shuffle=False), st.integers(0, 5))
def test_without_shuffle_the_order_is_the_datasets(data, epoch):
    """Not shuffled, every epoch runs from the first sample on."""
    order = epoch_of(data, epoch)
    assert order == list(range(len(order)))


@laws
@given(batches(), positions)
def test_a_position_is_all_that_an_iterator_knows(data, position):
    """at(p), the p-th item of iter_from(0) and the first of iter_from(p) are the same item."""
    item = data.at(position)
    assert same(item, next(islice(data.iter_from(0), position, None)))
    assert same(item, next(data.iter_from(position)))


@laws
@given(batches())
def test_plain_iteration_is_the_first_epoch(data):
    """iter(data) gives len(data) items: those of epoch 0."""
    items = list(data)
    assert len(items) == len(data)
    assert same(items, [data.at(position) for position in range(len(data))])


class Counting:
    """A dataset of any size, that remembers what was asked for."""

    def __init__(self, size):
        self.size, self.asked = size, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        return index


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_seek_reads_nothing_but_its_item(shuffle):
    """At position 10^12, one item reads its own samples and no other."""
    data = Batches(Counting(1000), batch_size=3, micro_batches=2, shuffle=shuffle)
    item = next(data.iter_from(10**12))
    assert data.dataset.asked == indices(item)
    assert len(data.dataset.asked) == 6


def test_an_epoch_draws_its_order_once(monkeypatch):
    """Two epochs of items cost two permutations."""
    drawn, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: drawn.append(a) or randperm(*a, **k))
    data = Batches(range(10), batch_size=2)
    list(islice(data.iter_from(0), 2 * len(data)))
    assert len(drawn) == 2


def test_only_the_current_order_is_kept():
    """What the object holds does not grow with the epochs behind it."""
    data = Batches(range(1000), batch_size=1000)
    data.at(0)
    small = len(pickle.dumps(data))
    list(islice(data.iter_from(0), 5))
    assert len(pickle.dumps(data)) < small + 100


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_default_device_moves_no_order(shuffle):
    """Indices are host numbers, also where new tensors would go to an accelerator."""
    data, other = (Batches(torch.arange(10), 3, shuffle=shuffle) for _ in range(2))
    with torch.device("meta"):
        item = data.at(5)
    assert same(item, other.at(5))


# Windows


@laws
@given(batches(), positions)
def test_windows_are_full_but_for_the_tail(data, position):
    """An item has micro_batches batches of batch_size samples; the last one of an epoch what is left."""
    item, k = data.at(position), data.micro_batches or 1
    sizes = [len(batch) for batch in (item if data.micro_batches else [item])]
    before = position % len(data) * data.batch_size * k
    left = min(len(data.dataset) - before, data.batch_size * k)
    assert sizes == [min(data.batch_size, left - start) for start in range(0, left, data.batch_size)]


@laws
@given(batches())
def test_length_counts_updates(data):
    """len is samples over samples per update, rounded as `tail` says."""
    size, window = len(data.dataset), data.batch_size * (data.micro_batches or 1)
    counted = size // data.batch_size * data.batch_size if data.tail == "full" else size
    assert len(data) == (size // window if data.tail == "drop" else -(-counted // window))
