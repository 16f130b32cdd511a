"""fnopt.Batches: what a Batch is made of, any map-style dataset, and mistakes."""

import collections
import pickle

import numpy
import pytest
import torch
from data_cases import batches, laws, positions
from hypothesis import given
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fnopt.data import Batches
from fnopt.errors import EmptyDataError, HyperparameterError, UsageError
from fnopt.record import same

Point = collections.namedtuple("Point", "x y")
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
