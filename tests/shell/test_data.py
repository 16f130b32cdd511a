"""fnopt.Batches: what an item is depends on (dataset, seed, position), and on nothing else."""

import collections
import pickle
from itertools import islice

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fnopt.data import Batches
from fnopt.errors import EmptyDataError, HyperparameterError, UsageError
from fnopt.record import same

laws = settings(deadline=None, max_examples=60)
Point = collections.namedtuple("Point", "x y")


@st.composite
def batches(draw, **fixed):
    """Batches over 0 … n-1, so that an item shows its indices; `fixed` are arguments not to draw."""
    shuffle, tail = draw(st.booleans()), fixed.get("tail", draw(st.sampled_from(["step", "full", "drop"])))
    batch_size, micro_batches = draw(st.integers(1, 6)), draw(st.none() | st.integers(1, 4))
    least = {"step": 1, "full": batch_size, "drop": batch_size * (micro_batches or 1)}[tail]
    size, seed = draw(st.integers(least, least + 40)), draw(st.integers(-(2**70), 2**70))
    return Batches(range(size), batch_size, micro_batches, **{"seed": seed, "shuffle": shuffle, "tail": tail} | fixed)


positions = st.integers(0, 200)


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


PAIRS = TensorDataset(torch.arange(6.0), torch.arange(6))


def test_a_list_is_micro_batches_and_nothing_else():
    """An item is a list exactly if micro_batches is given; a batch of tuple samples is a tuple."""
    x, y = Batches(PAIRS, 2, shuffle=False).at(1)
    assert same((x, y), (torch.tensor([2.0, 3.0]), torch.tensor([2, 3])))
    assert type(Batches(PAIRS, 2).at(0)) is tuple
    assert [type(batch) for batch in Batches(PAIRS, 2, 1).at(0)] == [tuple]
    assert [type(batch) for batch in Batches(PAIRS, 2, 2).at(0)] == [tuple, tuple]


NESTED = {
    "tuples": ((1, (2, 3)), (torch.tensor([1]), (torch.tensor([2]), torch.tensor([3])))),
    "lists": ([1, [2, 3]], (torch.tensor([1]), (torch.tensor([2]), torch.tensor([3])))),
    "strings": ((1, "a"), (torch.tensor([1]), ("a",))),
    "dict": ({"x": (1, 2)}, {"x": (torch.tensor([1]), torch.tensor([2]))}),
    "OrderedDict": (collections.OrderedDict(x=[1]), collections.OrderedDict(x=(torch.tensor([1]),))),
    "namedtuple": (Point(1, (2, 3)), Point(torch.tensor([1]), (torch.tensor([2]), torch.tensor([3])))),
}


@pytest.mark.parametrize("case", NESTED)
def test_lists_inside_a_batch_become_tuples(case):
    """At every depth of a batch, and in the types that the samples have."""
    sample, batch = NESTED[case]
    assert same(Batches([sample], 1).at(0), batch)


def test_a_collate_of_ones_own():
    """collate gets the list of samples; a list that it returns is a tuple in the batch, and samples may be ragged."""
    ragged = [torch.arange(i) for i in range(5)]
    data = Batches(ragged, 2, shuffle=False, collate=lambda samples: [torch.cat(samples), len(samples)])
    assert same(data.at(1), (torch.tensor([0, 1, 0, 1, 2]), 2))


class Duck:
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor(float(range(6)[index]))


SOURCES = {
    "list": [float(i) for i in range(6)],
    "tensor": torch.arange(6.0),
    "array": numpy.arange(6.0, dtype=numpy.float32),
    "Subset": Subset(torch.arange(10.0), [0, 1, 2, 3, 4, 5]),
    "duck": Duck(),
}


@pytest.mark.parametrize("source", SOURCES)
def test_any_map_style_dataset_will_do(source):
    """What has __getitem__ and __len__ is a dataset."""
    item = Batches(SOURCES[source], 6, shuffle=False).at(0)
    assert isinstance(item, Tensor)
    assert item.tolist() == [0, 1, 2, 3, 4, 5]


# The object


@laws
@given(batches(), positions)
def test_it_pickles(data, position):
    """A copy in another process gives the same items."""
    assert same(pickle.loads(pickle.dumps(data)).at(position), data.at(position))


def test_its_repr_shows_no_data():
    """The arguments, without the dataset's contents or the order."""
    data = Batches([0] * 1000, 8)
    data.at(0)
    assert repr(data) == (
        "Batches(dataset=<list>, batch_size=8, micro_batches=None, seed=0, shuffle=True, tail='step', collate=None, "
        "workers=0, seed_samples=True, world_size=1, rank=0)"
    )


class Sampler(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Unsized(Dataset):
    def __getitem__(self, index):
        return index


ERRORS = {
    "batch_size 0": (lambda: Batches([1], 0), HyperparameterError, "batch_size must be an int >= 1, got 0"),
    "batch_size True": (lambda: Batches([1], True), HyperparameterError, "batch_size must be an int >= 1, got True"),
    "batch_size 2.0": (lambda: Batches([1], 2.0), HyperparameterError, "batch_size must be an int >= 1, got 2.0"),
    "micro_batches 0": (lambda: Batches([1], 1, 0), HyperparameterError, "micro_batches must be an int >= 1, got 0"),
    "micro_batches True": (lambda: Batches([1], 1, True), HyperparameterError, "micro_batches must be .*, got True"),
    "seed": (lambda: Batches([1], 1, seed=0.5), HyperparameterError, "seed must be an int, got 0.5"),
    "workers -1": (lambda: Batches([1], 1, workers=-1), HyperparameterError, "workers must be an int >= 0, got -1"),
    "world_size 0": (lambda: Batches([1], 1, world_size=0), HyperparameterError, "world_size must be an int >= 1"),
    "rank 2": (lambda: Batches([1], 1, 2, world_size=2, rank=2), HyperparameterError, "below world_size 2, got 2"),
    "too few for the ranks": (
        lambda: Batches([1] * 9, 3, world_size=2),
        HyperparameterError,
        "micro_batches must be at least world_size 2, got None: the micro-batches of an update are shared out",
    ),
    "tail": (
        lambda: Batches([1], 1, tail="pad"),
        HyperparameterError,
        'tail must be "step", "full" or "drop", got \'pad\'',
    ),
    "shuffle": (lambda: Batches([1], 1, shuffle="no"), HyperparameterError, "shuffle must be True or False, got 'no'"),
    "seed_samples": (lambda: Batches([1], 1, seed_samples=0), HyperparameterError, "seed_samples must be .*, got 0"),
    "collate": (lambda: Batches([1], 1, collate=3), UsageError, "collate must be a function .*, got 3"),
    "position -1": (lambda: Batches([1], 1).at(-1), HyperparameterError, "position must be an int >= 0, got -1"),
    "position 1.0": (lambda: Batches([1], 1).iter_from(1.0), HyperparameterError, "position must be .*, got 1.0"),
    "empty": (lambda: Batches([], 1), EmptyDataError, "has 0 samples, expected at least 1"),
    "0 updates": (
        lambda: Batches([1] * 5, 3, 2, tail="drop"),
        EmptyDataError,
        r'makes 0 updates per epoch: the dataset has 5 samples, expected at least 6 .*use tail="step"',
    ),
    "DataLoader": (lambda: Batches(DataLoader([1]), 1), UsageError, "got a DataLoader, which can only .*fnopt.Stream"),
    "IterableDataset": (lambda: Batches(Sampler(), 1), UsageError, "got a Sampler, which can only .*fnopt.Stream"),
    "generator": (lambda: Batches(iter([1]), 1), UsageError, "got a list_iterator, which can only .*fnopt.Stream"),
    "no length": (lambda: Batches(Unsized(), 1), UsageError, "got a Unsized, which lacks __len__"),
    "frozen": (lambda: setattr(Batches([1], 1), "seed", 3), AttributeError, None),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_refused_at_once(case):
    """The error says what was wrong, what was got and what was expected, before any sample is drawn."""
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()
