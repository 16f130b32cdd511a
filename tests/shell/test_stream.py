"""fnopt.Stream: what can only be iterated gives the items of Batches, and says what a resume costs."""

import warnings
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fnopt.data import Batches
from fnopt.errors import DataExhaustedError, EmptyDataError, HyperparameterError, UsageError
from fnopt.record import same
from fnopt.stream import ReplayWarning, Stream

laws = settings(deadline=None, max_examples=30)
groupings = st.tuples(st.integers(1, 5), st.none() | st.integers(1, 4))
sizes = st.integers(1, 30)


class Numbers(IterableDataset):
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(range(self.size))


@laws
@given(sizes, groupings)
def test_it_gives_the_items_of_batches(size, grouping):
    """The same samples in the same windows as Batches without shuffle, epoch after epoch; no window crosses an end."""
    stream, batches = Stream(Numbers(size), *grouping), Batches(range(size), *grouping, shuffle=False)
    assert same(list(stream), list(batches))
    wanted = 2 * len(batches) + 1
    assert same(list(islice(stream.iter_from(0), wanted)), list(islice(batches.iter_from(0), wanted)))


@laws
@given(sizes, groupings, st.integers(1, 40))
def test_a_resume_is_exact_and_says_its_cost(size, grouping, position):
    """iter_from(p) begins with the p-th item, after one warning that names the number of items to replay."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        item = next(Stream(Numbers(size), *grouping).iter_from(position))
    assert [warning.category for warning in caught] == [ReplayWarning]
    assert f"replaying {position} items" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert same(item, Batches(range(size), *grouping, shuffle=False).at(position))


@laws
@given(sizes, groupings)
def test_a_start_warns_of_nothing(size, grouping):
    """Position 0 needs no replay."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(Stream(Numbers(size), *grouping).iter_from(0))


@laws
@given(sizes, groupings)
def test_a_one_shot_source_ends_where_another_item_is_needed(size, grouping):
    """Every item of a generator is given, and the error comes with the request for one more."""
    batches = Batches(range(size), *grouping, shuffle=False)
    items = Stream((i for i in range(size)), *grouping).iter_from(0)
    assert same(list(islice(items, len(batches))), list(batches))
    with pytest.raises(DataExhaustedError, match=f"ended after {len(batches)} and can be iterated only once"):
        next(items)


def test_a_one_shot_source_goes_on_where_it_is():
    """A second iterator at the source's own place needs no replay, one before it is refused, one after it skips."""
    stream = Stream((i for i in range(10)), batch_size=1)
    assert [int(item) for item in islice(stream.iter_from(0), 3)] == [0, 1, 2]
    assert int(next(stream.iter_from(3))) == 3
    with pytest.raises(DataExhaustedError, match="position 0 is behind the source, which gave 4 items"):
        stream.iter_from(0)
    with pytest.warns(ReplayWarning, match="replaying 2 items to reach position 6"):
        assert int(next(stream.iter_from(6))) == 6


def test_a_replay_past_the_end_is_exhaustion():
    """A resume beyond the end of a one-shot source fails; it does not begin again."""
    with pytest.warns(ReplayWarning):
        items = Stream(iter(range(3)), batch_size=1).iter_from(5)
    with pytest.raises(DataExhaustedError, match="ended after 3"):
        next(items)


class OneShotInDisguise:
    """Says that it can be iterated again, and gives nothing the second time."""

    def __init__(self):
        self.once = iter(range(2))

    def __iter__(self):
        return (i for i in self.once)


def test_an_epoch_of_nothing_is_exhaustion():
    """A source that gave items and then an empty epoch has ended: no endless loop, no silence."""
    items = Stream(OneShotInDisguise(), batch_size=1).iter_from(0)
    assert [int(next(items)), int(next(items))] == [0, 1]
    with pytest.raises(DataExhaustedError, match="ended after 2"):
        next(items)


@pytest.mark.parametrize(
    "source", [[], iter(()), Numbers(0), DataLoader([])], ids=["list", "iterator", "set", "loader"]
)
@pytest.mark.parametrize("start", [iter, lambda stream: stream.iter_from(0)], ids=["iter", "iter_from"])
def test_an_empty_source_is_an_error(source, start):
    """Nothing to train on is said at the first item."""
    with pytest.raises(EmptyDataError, match="yields nothing"):
        next(start(Stream(source, batch_size=1, micro_batches=2)))


def test_an_item_takes_no_more_than_its_samples():
    """Nothing is drawn ahead: a source on the network is not asked for what nobody needs."""
    taken = []
    items = Stream((taken.append(i) or i for i in range(100)), batch_size=3, micro_batches=2).iter_from(0)
    assert taken == []
    next(items)
    assert taken == [0, 1, 2, 3, 4, 5]


def test_a_loaders_batches_are_taken_as_they_are():
    """Without batch_size the source's elements are batches; the list that a DataLoader makes becomes a tuple."""
    loader = DataLoader(TensorDataset(torch.arange(5.0), torch.arange(5)), batch_size=2)
    item = next(iter(Stream(loader)))
    assert same(item, (torch.tensor([0.0, 1.0]), torch.tensor([0, 1])))
    windows = list(Stream(loader, micro_batches=2))
    assert [[type(batch) for batch in window] for window in windows] == [[tuple, tuple], [tuple]]


def test_a_collate_of_ones_own():
    """collate gets the list of samples, and a list that it returns is a tuple in the batch."""
    data = Stream(range(5), batch_size=2, collate=lambda samples: [sum(samples), len(samples)])
    assert list(data) == [(1, 2), (5, 2), (4, 1)]


def test_a_stray_stop_iteration_is_no_end_of_data():
    """A collate function that raises StopIteration by mistake fails; it does not end the epoch early."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(Stream(range(5), batch_size=2, collate=lambda samples: next(iter(()))))


def test_its_repr_shows_no_data():
    """The arguments, without the source's contents."""
    assert repr(Stream([0] * 1000)) == "Stream(source=<list>, batch_size=None, micro_batches=None, collate=None)"


class Indexed:
    def __getitem__(self, index):
        return index


ERRORS = {
    "map-style": (lambda: Stream(Indexed()), UsageError, "source must be iterable, got a Indexed; use fnopt.Batches"),
    "batch_size 0": (lambda: Stream([1], 0), HyperparameterError, "Stream: batch_size must be an int >= 1, got 0"),
    "batch_size True": (lambda: Stream([1], True), HyperparameterError, "batch_size must be an int >= 1, got True"),
    "micro_batches 0": (lambda: Stream([1], 1, 0), HyperparameterError, "micro_batches must be an int >= 1, got 0"),
    "micro_batches 1.5": (lambda: Stream([1], 1, 1.5), HyperparameterError, "micro_batches must be .*, got 1.5"),
    "collate": (lambda: Stream([1], 1, collate="x"), UsageError, "collate must be a function .*, got 'x'"),
    "collate alone": (lambda: Stream([1], collate=len), UsageError, "got batch_size None; give both or none"),
    "position": (lambda: Stream([1]).iter_from(-1), HyperparameterError, "position must be an int >= 0, got -1"),
    "len": (lambda: len(Stream([1])), TypeError, "Stream has no length: .*fnopt.Batches"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_refused_at_once(case):
    """The error says what was wrong, what was got and what was expected, before any item is drawn."""
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()
