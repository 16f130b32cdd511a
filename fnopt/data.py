"""Batches whose order is a function of (seed, epoch): a place in the data is one int, and going there costs nothing.

`Batches` is for datasets that can be indexed; `fnopt.Stream` is for sources that can only be iterated.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, Protocol, cast

import attrs
import torch
from attrs import field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .errors import EmptyDataError, HyperparameterError, UsageError
from .randomness import borrowed_generators, mix
from .samples import Collate, Item, assemble, brief, check_collate, check_count, none_of

# Seeds of different uses are unrelated, also to those that a step mixes from the same run's seed.
_ORDER, _SAMPLE, _COLLATE = (int.from_bytes(use) for use in (b"order", b"sample", b"collate"))
_NOTHING = -1  # the part of a rank for which a small last item has none


class MapStyle(Protocol):
    """A dataset that can be indexed from 0 to its length: a torch Dataset, a list, a `datasets.Dataset`."""

    def __getitem__(self, index: int, /) -> Any: ...
    def __len__(self) -> int: ...


@attrs.frozen(eq=False)
class Batches:
    """The batches of a map-style dataset, shuffled anew in each epoch, that can begin at any position.

    dataset        has `__getitem__` and `__len__`; its length must not change
    batch_size     samples of one micro-batch
    micro_batches  None: an item is one Batch. An int: an item is a list of up to so many, for a step with `accumulate`
    seed, shuffle  the order of epoch e depends on (seed, e) only; without shuffle it is the dataset's own
    tail           "step": the last item of an epoch holds what is left, fewer and smaller micro-batches, which the
                   weight of the loss accounts for; "full": of these the full ones; "drop": that item is left out
    collate        from a list of samples to a Batch; None: torch's. Lists in a Batch become tuples
    workers        processes that draw ahead; their number changes no bit, unless a sample depends on how many threads
                   torch has (they have one)
    seed_samples   seed the global generators of torch's CPU, Python and numpy by (seed, epoch, index) for each sample,
                   and give the caller's back: random augmentation then depends on neither workers nor resumes. Costs
                   about 10 us per sample and 0.1 ms per batch: False is for datasets without randomness
    world_size, rank   processes that share each update, and which one this is: it gets the micro-batches rank,
                   rank + world_size, … of the update, which has the same samples for every world size; one for which
                   a last item has none gets one of 0 samples. For a step with `all_reduce`

    >>> data = Batches(range(10), batch_size=2, micro_batches=2, shuffle=False)
    >>> len(data), data.at(0), data.at(2)
    (3, [tensor([0, 1]), tensor([2, 3])], [tensor([8, 9])])

    Raises EmptyDataError if an epoch would make no update, UsageError for a dataset that cannot be indexed.
    """

    dataset: MapStyle = field(repr=brief)
    batch_size: int
    micro_batches: int | None = None
    seed: int = 0
    shuffle: bool = True
    tail: Literal["step", "full", "drop"] = "step"
    collate: Collate | None = None
    workers: int = 0
    seed_samples: bool = True
    world_size: int = 1
    rank: int = 0
    _samples: int = field(init=False, repr=False, default=0)
    _orders: dict[int, Tensor] = field(init=False, repr=False, factory=dict[int, Tensor])  # of the current epoch only

    def __attrs_post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "_samples", len(self.dataset))
        if not self._samples:
            raise EmptyDataError(
                "Batches: the dataset has 0 samples, expected at least 1; look at its path and filters"
            )
        if not len(self):
            raise EmptyDataError(
                f'Batches: tail="{self.tail}" makes 0 updates per epoch: the dataset has {self._samples} samples, '
                f"expected at least {self._least} (batch_size {self.batch_size} x micro_batches "
                f'{self._least // self.batch_size}); use tail="step", or smaller ones'
            )

    def __len__(self) -> int:
        """Updates per epoch."""
        full, rest = divmod(self._samples, self._window)
        return full + (rest >= self._least)

    def __iter__(self) -> Iterator[Item]:
        """The items of epoch 0, once."""
        return self._items(range(len(self)))

    def iter_from(self, position: int) -> Iterator[Item]:
        """The items from `position` on, epoch after epoch, without end."""
        check_count("Batches.iter_from", "position", position, least=0)
        return self._items(range(position, sys.maxsize))

    def at(self, position: int) -> Item:
        """The item at `position`, drawn in this process; all positions cost the same (and an order, once per epoch).

        >>> data = Batches(range(10), batch_size=4, seed=1)
        >>> sorted(torch.cat([data.at(3), data.at(4), data.at(5)]).tolist())     # epoch 1
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        check_count("Batches.at", "position", position, least=0)
        return self._item([self._draw(position, part) for part in self._parts(position)])

    @property
    def _window(self) -> int:
        return self.batch_size * (self.micro_batches or 1)

    @property
    def _least(self) -> int:
        """Samples without which an item is left out."""
        return {"step": 1, "full": self.batch_size, "drop": self._window}[self.tail]

    def _item(self, batches: list[Any]) -> Item:
        return batches[0] if self.micro_batches is None else batches

    def _items(self, positions: range) -> Iterator[Item]:
        if not self.workers:
            for position in positions:
                yield self.at(position)
            return
        drawn = iter(self._loader(positions))  # its processes end with this generator, which alone knows them
        for position in positions:
            yield self._item(list(islice(drawn, len(self._parts(position)))))

    def _loader(self, positions: range) -> "DataLoader[Any]":
        """torch's engine as a parallel map over (position, part): sampling and batching stay here."""
        return DataLoader(
            _Parts(self._draw),
            sampler=((position, part) for position in positions for part in self._parts(position)),
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_is,
            worker_init_fn=_ignore_interrupt,
            generator=torch.Generator("cpu"),  # or it would draw from the caller's
        )

    def _parts(self, position: int) -> Sequence[int]:
        """Which micro-batches of the update at `position` are this rank's."""
        left = self._samples - position % len(self) * self._window
        parts = left // self.batch_size if self.tail == "full" else -(-left // self.batch_size)
        return range(self.rank, min(self.micro_batches or 1, parts), self.world_size) or (_NOTHING,)

    def _draw(self, position: int, part: int) -> Any:
        """One micro-batch; a pure function of its arguments, if the dataset is one under seeded generators."""
        if part == _NOTHING:
            return none_of(self._draw(position, 0))
        epoch, window = divmod(position, len(self))
        start = window * self._window + part * self.batch_size
        indices: list[int] = cast(Any, self._order(epoch)[start : start + self.batch_size]).tolist()
        if not self.seed_samples:
            return assemble([self.dataset[index] for index in indices], self.collate)
        with borrowed_generators() as seed_all:
            samples: list[Any] = []
            for index in indices:
                seed_all(mix(_SAMPLE, self.seed, epoch, index))
                samples.append(self.dataset[index])
            seed_all(mix(_COLLATE, self.seed, epoch, indices[0]))  # it may draw too: the masks of a language model
            return assemble(samples, self.collate)

    def _order(self, epoch: int) -> Tensor:
        order = self._orders.get(epoch)
        if order is None:
            order = torch.arange(self._samples, device="cpu")  # under any default device
            if self.shuffle:
                generator = torch.Generator("cpu").manual_seed(mix(_ORDER, self.seed, epoch))
                order = torch.randperm(self._samples, generator=generator, device="cpu")
            self._orders.clear()
            self._orders[epoch] = order
        return order


class _Parts(Dataset[Any]):
    """Micro-batches by (position, part): what the worker processes index."""

    def __init__(self, draw: Callable[[int, int], Any]):
        self.draw = draw

    def __getitem__(self, index: Any) -> Any:
        return self.draw(*index)


def _as_is(batch: Any) -> Any:
    return batch


def _ignore_interrupt(worker: int) -> None:
    # Ctrl-C goes to the whole process group; the main process is the one to end the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(batches: Batches) -> None:
    dataset = cast(Any, batches.dataset)
    lacks = [name for name in ("__getitem__", "__len__") if not hasattr(dataset, name)]
    if lacks or isinstance(dataset, IterableDataset):
        why = "can only be iterated" if hasattr(batches.dataset, "__iter__") else f"lacks {' and '.join(lacks)}"
        raise UsageError(
            "Batches: dataset must be map-style (with __getitem__ and __len__), got a "
            f"{type(batches.dataset).__name__}, which {why}; use fnopt.Stream(source) for what can only be iterated"
        )
    check_count("Batches", "batch_size", batches.batch_size, least=1)
    if batches.micro_batches is not None:
        check_count("Batches", "micro_batches", batches.micro_batches, least=1)
    check_count("Batches", "seed", batches.seed, least=None)
    check_count("Batches", "workers", batches.workers, least=0)
    _check_ranks(batches.world_size, batches.rank, batches.micro_batches)
    if batches.tail not in ("step", "full", "drop"):
        raise HyperparameterError(f'Batches: tail must be "step", "full" or "drop", got {batches.tail!r}')
    for name in ("shuffle", "seed_samples"):
        if not isinstance(getattr(batches, name), bool):
            raise HyperparameterError(f"Batches: {name} must be True or False, got {getattr(batches, name)!r}")
    check_collate("Batches", batches.collate)


def _check_ranks(world_size: int, rank: int, micro_batches: int | None) -> None:
    check_count("Batches", "world_size", world_size, least=1)
    check_count("Batches", "rank", rank, least=0)
    if rank >= world_size:
        raise HyperparameterError(f"Batches: rank must be below world_size {world_size}, got {rank}")
    if world_size > 1 and (micro_batches or 0) < world_size:
        raise HyperparameterError(
            f"Batches: micro_batches must be at least world_size {world_size}, got {micro_batches}: the micro-batches "
            "of an update are shared out to the processes"
        )
