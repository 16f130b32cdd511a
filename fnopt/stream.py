"""Batches from what can only be iterated: they work, and say what a resume costs."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn, TypeVar

import attrs
from attrs import field

from .errors import DataExhaustedError, EmptyDataError, UsageError
from .samples import Collate, Item, assemble, brief, check_collate, check_count, no_lists

T = TypeVar("T")


class ReplayWarning(UserWarning):
    """A resume that reads its source again from the start."""


@attrs.define(eq=False)
class Stream:
    """The batches of an iterable: an IterableDataset, a DataLoader, a generator.

    source         any iterable; it decides order and randomness. When it ends, the next epoch begins. An iterator (a
                   generator, an open file) is one-shot and has no next epoch
    batch_size     samples of one micro-batch; None: the source yields ready batches. Lists in a Batch become tuples
    micro_batches  None: an item is one Batch. An int: an item is a list of up to so many, for a step with `accumulate`.
                   The last batch and the last item of an epoch hold what is left
    collate        from a list of samples to a Batch; None: torch's

    >>> data = Stream(range(5), batch_size=2, micro_batches=2)
    >>> list(data)
    [[tensor([0, 1]), tensor([2, 3])], [tensor([4])]]

    To begin at position n costs n items, drawn and thrown away under a ReplayWarning, and repeats a run only if the
    source yields the same each time; `fnopt.Batches` needs neither. Raises EmptyDataError where the source yields
    nothing, DataExhaustedError where a one-shot source has ended and another item is needed, or an earlier one.
    """

    source: Iterable[Any] = field(repr=brief)
    batch_size: int | None = None
    micro_batches: int | None = None
    collate: Collate | None = None
    _drawn: int = field(init=False, repr=False, default=0)  # items so far: where a one-shot source is

    def __attrs_post_init__(self) -> None:
        if not hasattr(self.source, "__iter__"):
            raise UsageError(
                f"Stream: source must be iterable, got a {type(self.source).__name__}; use fnopt.Batches(dataset, "
                "batch_size) for a dataset that can be indexed"
            )
        for name in ("batch_size", "micro_batches"):
            if getattr(self, name) is not None:
                check_count("Stream", name, getattr(self, name), least=1)
        check_collate("Stream", self.collate)
        if self.collate and self.batch_size is None:
            raise UsageError(
                "Stream: collate makes a Batch of batch_size samples, got batch_size None; give both or none"
            )

    def __len__(self) -> NoReturn:
        raise UsageError(
            "Stream has no length: how much its source yields is known at the end; give the number of updates, or use "
            "fnopt.Batches for a dataset that has a length"
        )

    def __iter__(self) -> Iterator[Item]:
        """The items of one epoch; of a one-shot source those that are left."""
        if self.batch_size is None:
            batches = (no_lists(batch) for batch in self.source)
        else:
            batches = (assemble(samples, self.collate) for samples in _chunks(self.source, self.batch_size))
        nothing = True
        for item in batches if self.micro_batches is None else _chunks(batches, self.micro_batches):
            nothing = False
            self._drawn += 1
            yield item
        if nothing and self._drawn:
            raise DataExhaustedError(
                f"Stream: another item is needed, but the source ended after {self._drawn} and can be iterated only "
                "once; run fewer updates, or give a source that starts again: a Dataset, a DataLoader, a list"
            )
        if nothing:
            raise EmptyDataError(
                "Stream: the source yields nothing, expected at least one item; look at its path and filters"
            )

    def iter_from(self, position: int) -> Iterator[Item]:
        """The items from `position` on, epoch after epoch; draws and throws away what comes before.

        A one-shot source goes on where it is, so that a run can be continued in the same process without a replay.
        """
        check_count("Stream.iter_from", "position", position, least=0)
        replay = position - (self._drawn if isinstance(self.source, Iterator) else 0)
        if replay < 0:
            raise DataExhaustedError(
                f"Stream: position {position} is behind the source, which gave {self._drawn} items and can be iterated "
                "only once; begin there, or give Stream a new iterator"
            )
        if replay:
            warnings.warn(
                f"Stream: replaying {replay} items to reach position {position}, because a source that can only be "
                "iterated is read from its start; fnopt.Batches over a dataset that can be indexed needs no replay",
                ReplayWarning,
                stacklevel=2,
            )
        return islice(self._endless(), replay, None)

    def _endless(self) -> Iterator[Item]:
        while True:
            yield from iter(self)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
