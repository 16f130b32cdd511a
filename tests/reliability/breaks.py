"""fnopt with one thing broken, by name: what each harness must see, or its zero proves nothing."""

import os
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import fnopt
from fnopt.checkpoint import document, fallback, file, manager, reader, torch_archive
from fnopt.checkpoint.file import Encoded
from fnopt.checkpoint.fs import DISK, Fs, Output
from fnopt.checkpoint.process import Process, temporary_name
from fnopt.checkpoint.shelf import Shelf
from fnopt.errors import CheckpointWriteError
from fnopt.grads import Graded
from fnopt.signals import Stop
from fnopt.state import TrainState

Patch = tuple[Any, str, Any]  # object, attribute, what stands there instead


def writer(
    sync: bool = True, sync_folder: bool = True, in_place: bool = False, quiet: bool = False
) -> Callable[..., None]:
    """A writer that leaves something out."""

    def write(path: Path, fill: Callable[[Output], None], size: int, fs: Fs = DISK) -> None:
        temporary = path if in_place else path.parent / temporary_name("0" * 16)
        if in_place and path.exists():
            fs.unlink(path)
        try:
            fd = fs.create(temporary)
            try:
                fill(Output(fs, fd))
                if sync:
                    fs.fsync(fd)
            finally:
                fs.close(fd)
            if not in_place:
                fs.replace(temporary, path)
            if sync_folder:
                fs.fsync_folder(path.parent)
        except OSError as error:
            if not quiet:
                raise CheckpointWriteError(str(error)) from None

    return write


def _delete_first(self: Shelf, path: Path, encoded: Encoded, keep: int, mode: str) -> None:
    for old in self.newest_first()[keep - 1 :]:
        self.fs.unlink(old.path)
    encoded.write(path, self.fs)


def _rebuilt(forgotten: str) -> Callable[..., TrainState]:
    from fnopt.checkpoint.names import rebuild

    def forgetful(like: TrainState, *arguments: Any) -> TrainState:
        state = rebuild(like, *arguments)
        return fnopt.evolve(state, **{forgotten: getattr(like, forgotten)})

    return forgetful


def _trusting_load(*arguments: Any, weights_only: bool = True, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _TORCH_LOAD(*arguments, weights_only=False, **named)


_TORCH_LOAD = torch.load


def _forgotten(name: str) -> list[Patch]:
    from fnopt.checkpoint import accept

    return [(accept, "rebuild", _rebuilt(name))]


def _stale(self: Shelf) -> list[Any]:
    return sorted(self._look(), key=lambda found: found.position)


def _in_place(update: Callable[..., Any]) -> Callable[..., Any]:
    def updating(self: fnopt.AdamW, grads: Any, state: Any, params: Any) -> Any:
        for leaf in params.values():
            leaf.mul_(0.5)
        return update(self, grads, state, params)

    return updating


def _unweighted(a: Graded, b: Graded) -> Graded:
    return fnopt.evolve(a, grads={name: a.grads[name] + grad / 2 for name, grad in b.grads.items()})


def _one_order(self: fnopt.Batches, epoch: int) -> torch.Tensor:
    return torch.randperm(len(self.dataset))


def _all_parts(self: fnopt.Batches, position: int) -> Sequence[int]:
    left = self._samples - position % len(self) * self._window
    return range(min(self.micro_batches or 1, -(-left // self.batch_size)))


BREAKS: dict[str, Callable[[], list[Patch]]] = {
    "no fsync": lambda: [(file, "write_atomically", writer(sync=False))],
    "no fsync of the folder": lambda: [(file, "write_atomically", writer(sync_folder=False))],
    "written in place": lambda: [(file, "write_atomically", writer(in_place=True))],
    "errors are swallowed": lambda: [(file, "write_atomically", writer(quiet=True))],
    "deleted before durable": lambda: [(Shelf, "put", _delete_first)],
    "no digest": lambda: [(reader.Reader, "_damage", lambda self: None)],
    "latest is not verified": lambda: [(manager, "_verified", lambda found: found.path)],
    "nothing is passed over": lambda: [(fallback, "_BROKEN", ())],
    "oldest first": lambda: [(Shelf, "newest_first", _stale)],
    "pickles are trusted": lambda: [
        (torch_archive, "_check_pickle", lambda *arguments: None),
        (torch, "load", _trusting_load),
    ],
    "archives are trusted": lambda: [(torch_archive, "_check_entries", lambda *arguments: None)],
    "headers are trusted": lambda: [("fnopt.checkpoint.container", "excess", lambda header, size: "")],
    "position is forgotten": lambda: _forgotten("position"),
    "optimizer is forgotten": lambda: _forgotten("opt_state"),
    "loss scale is forgotten": lambda: _forgotten("loss_scale"),
    "seed is forgotten": lambda: _forgotten("seed"),
    "signals have no status": lambda: [(Stop, "status", property(lambda self: 0))],
    "everybody is dead": lambda: [(Process, "is_dead", lambda self: True)],
    "no migration": lambda: [(document, "migrate", dict)],
    "newer schemas pass": lambda: [(document, "is_known", lambda schema: True)],
    "no snapshot": lambda: [(Encoded, "copied", lambda self: self)],
    "descriptors leak": lambda: [(Fs, "close", lambda self, fd: None)],
    "states are kept": lambda: [(Encoded, "write", _hoarding(Encoded.write, []))],
    "what is not finite passes": lambda: [("fnopt.step", "all_finite", lambda tensors: torch.tensor(True))],
    "updates are made in place": lambda: [(fnopt.AdamW, "update", _in_place(fnopt.AdamW.update))],
    "parts are weighed wrongly": lambda: [("fnopt.accumulate", "add", _unweighted)],
    "orders are drawn anew": lambda: [(fnopt.Batches, "_order", _one_order)],
    "ranks draw alike": lambda: [(fnopt.Batches, "_parts", _all_parts)],
    "mismatches pass": lambda: [(file, "check_match", lambda *arguments: None)],
}


def _hoarding(write: Callable[..., None], hoard: list[bytes]) -> Callable[..., None]:
    def hoarding(self: Encoded, path: Path, fs: Fs) -> None:
        hoard.append(os.urandom(self.size))
        write(self, path, fs)

    return hoarding


@contextmanager
def broken(name: str) -> Generator[None, None, None]:
    """fnopt with this broken; with nothing, as it is."""
    import importlib

    patches = BREAKS[name]() if name else []
    targets = [importlib.import_module(where) if isinstance(where, str) else where for where, _, _ in patches]
    before = [where.__dict__[attribute] for where, (_, attribute, _) in zip(targets, patches, strict=True)]
    try:
        for where, (_, attribute, value) in zip(targets, patches, strict=True):
            setattr(where, attribute, value)
        yield
    finally:
        for where, (_, attribute, _), value in zip(targets, patches, before, strict=True):
            setattr(where, attribute, value)
