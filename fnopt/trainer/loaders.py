"""Any loader as data that can begin at a position: torch's own are rebuilt over our order, others are replayed."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import attrs
from torch.utils import data as torch_data

from ..data import Batches
from ..errors import HyperparameterError, UsageError
from ..randomness import borrowed_generators, mix
from ..stream import Stream

_DRAW = int.from_bytes(b"draw")
_torch: Any = torch_data


def resumable(name: str, loader: Any, micro_batches: int | None, seed: int) -> tuple[Any, str]:
    """The loader as a source for `run`, and what was done to it, in words.

    Batches and Stream stay what they are; a DataLoader over its own random or sequential sampler becomes Batches with
    its dataset, batch size, collate, workers and drop_last; any other iterable is read from its start on resume.
    """
    if isinstance(loader, Batches | Stream):
        return _with_micro_batches(name, loader, micro_batches), ""
    if hasattr(loader, "iter_from"):
        _check_own(name, loader, micro_batches)
        return loader, ""
    if not hasattr(loader, "__iter__"):
        raise UsageError(
            f"Trainer: {name} is a {type(loader).__name__}, expected a DataLoader, fnopt.Batches or an iterable of "
            "batches; wrap a dataset as torch.utils.data.DataLoader(dataset, batch_size=…)"
        )
    if isinstance(loader, _torch.DataLoader):
        why = _cannot_rebuild(loader)
        if not why:
            return _rebuilt(loader, micro_batches, seed), ""
    else:
        why = "an iterable"
    source = cast("Iterable[Any]", loader)
    one_shot = isinstance(source, Iterator)
    data = Stream(source, micro_batches=micro_batches) if one_shot else Replayed(source, seed, micro_batches)
    return data, f"{name}: kept as it is ({why}); a resumed run draws again, from the start, what came before"


def _check_own(name: str, loader: Any, micro_batches: int | None) -> None:
    if micro_batches is not None and getattr(loader, "micro_batches", None) != micro_batches:
        raise HyperparameterError(
            f"Trainer: grad_accum_steps={micro_batches}, and {name} is a {type(loader).__name__}, which makes its "
            f"items itself, expected micro_batches={micro_batches} on it, and lists of so many; or leave it out"
        )


def _with_micro_batches(name: str, data: Any, micro_batches: int | None) -> Any:
    if micro_batches is None or data.micro_batches == micro_batches:
        return data
    if data.micro_batches is not None:
        raise HyperparameterError(
            f"Trainer: grad_accum_steps={micro_batches}, and {name} has micro_batches={data.micro_batches}, expected "
            "one of them; leave grad_accum_steps out"
        )
    return attrs.evolve(data, micro_batches=micro_batches)


def _cannot_rebuild(loader: Any) -> str:
    """What of a DataLoader has no place in Batches; nothing of most."""
    sampler = loader.sampler
    shuffled = type(sampler) is _torch.RandomSampler and not sampler.replacement
    ordinary = type(loader.batch_sampler) is _torch.BatchSampler and loader.batch_sampler.sampler is sampler
    reasons: dict[str, bool] = {
        "its dataset can only be iterated": isinstance(loader.dataset, _torch.IterableDataset),
        "it has no batch_size": loader.batch_size is None and loader.batch_sampler is None,
        "its class iterates in its own way": cast(Any, type(loader)).__iter__ is not _torch.DataLoader.__iter__,
        "custom batch_sampler": not ordinary,
        f"custom sampler {type(sampler).__name__}": not (shuffled or type(sampler) is _torch.SequentialSampler),
        "its sampler draws from another dataset": getattr(sampler, "data_source", None) is not loader.dataset,
        "its sampler draws another number": shuffled and sampler.num_samples != len(loader.dataset),
        "it has a worker_init_fn": loader.worker_init_fn is not None,
    }
    return next((why for why, holds in reasons.items() if holds), "")


def _rebuilt(loader: Any, micro_batches: int | None, seed: int) -> Batches:
    collate = None if loader.collate_fn is _torch.default_collate else loader.collate_fn
    return Batches(
        loader.dataset,
        loader.batch_size,
        micro_batches,
        seed=seed,
        shuffle=type(loader.sampler) is _torch.RandomSampler,
        tail="full" if loader.drop_last else "step",
        collate=collate,
        workers=loader.num_workers,
        seed_samples=type(loader.dataset) is not _torch.TensorDataset or collate is not None,
    )


@attrs.frozen(eq=False)
class Replayed:
    """An iterable of batches that is read again, epoch after epoch, and on resume from its start.

    What it draws from the global generators of the CPU is a function of (seed, epoch, place), so that it repeats. A
    sampler with `set_epoch` is told the epoch.

    >>> data = Replayed(["a", "b", "c"], seed=0, micro_batches=2)
    >>> len(data), [item for item, _ in zip(data.iter_from(0), range(3))]
    (2, [['a', 'b'], ['c'], ['a', 'b']])

    Raises TypeError from `len` where the source has no length.
    """

    source: Iterable[Any]
    seed: int
    micro_batches: int | None = None

    def __len__(self) -> int:
        """Updates per epoch."""
        return math.ceil(len(cast(Any, self.source)) / (self.micro_batches or 1))

    def __iter__(self) -> Iterator[Any]:
        """The items of one epoch."""
        return iter(self._stream())

    def iter_from(self, position: int) -> Iterator[Any]:
        """The items from `position` on; those before are drawn and thrown away, under a ReplayWarning."""
        return self._stream().iter_from(position)

    def _stream(self) -> Stream:
        return Stream(_Epochs(self.source, self.seed), micro_batches=self.micro_batches)


@attrs.define(eq=False)
class _Epochs:
    """One epoch each time that it is iterated."""

    source: Any
    seed: int
    epoch: int = -1

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        for sampler in (getattr(self.source, "sampler", None), getattr(self.source, "batch_sampler", None)):
            if hasattr(sampler, "set_epoch"):
                cast(Any, sampler).set_epoch(self.epoch)
        batches: Any = None
        for place in itertools.count():
            with borrowed_generators() as seed_all:
                seed_all(mix(_DRAW, self.seed, self.epoch, place))
                batches = iter(self.source) if batches is None else batches
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


@attrs.define(eq=False)
class Kept:
    """Data whose iterator stays open, so that to leave `run` and come back at the same place draws nothing anew."""

    data: Any
    _place: int = -1
    _items: Any = None

    def iter_from(self, position: int) -> Iterator[Any]:
        """The items from `position` on."""
        if position != self._place:
            self._items, self._place = self.data.iter_from(position), position
        return self._counted()

    def _counted(self) -> Iterator[Any]:
        for item in self._items:
            self._place += 1
            yield item
