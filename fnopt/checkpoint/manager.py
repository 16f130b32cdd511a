"""CheckpointManager: the checkpoints of one run in one folder, of which the last and the best good ones stay."""

import os
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import attrs
from torch import Tensor

from ..errors import CheckpointError, CheckpointWarning, HyperparameterError, UsageError
from ..state import TrainState
from .background import Background
from .document import JSON
from .environment import tell
from .fallback import first_good, no_checkpoint
from .file import encode_state, load_file, read_header
from .fs import DISK, Fs, make_folders
from .lock import RunLock, sweep
from .shelf import Saved, Shelf, as_metric, name_of


@attrs.frozen(eq=False)
class CheckpointManager:
    """The checkpoints of a run: the last `keep` good ones stay, and the best one by `metric`.

    folder        made where it is missing; held for this process until `close`, which `with` calls
    mode          is the best metric the "min" or the "max"?
    asynchronous  `save` copies the state and returns, a thread writes; its error is raised by the next call

    Files are `step-<position>.safetensors`, each whole and durable before an older one is removed; there is no pointer
    to go stale: each file says which save it was, and its metric, so the best is a file like the others. At the start,
    unfinished files of dead processes are removed.

    >>> import tempfile, torch
    >>> folder, state = tempfile.TemporaryDirectory(), TrainState.of({"w": torch.ones(2)})
    >>> with CheckpointManager(folder.name, keep=2) as manager:
    ...     _ = manager.save(state, metric=0.5)
    ...     manager.latest().name, manager.restore(like=state) == state
    ('step-0000000000.safetensors', True)
    >>> folder.cleanup()

    Raises RunLockedError where another process may be writing, CheckpointWriteError where nobody can write.
    """

    folder: Path = attrs.field(converter=Path)
    keep: int = attrs.field(default=3, kw_only=True)
    mode: Literal["min", "max"] = attrs.field(default="min", kw_only=True)
    asynchronous: bool = attrs.field(default=False, kw_only=True)
    fs: Fs = attrs.field(default=DISK, kw_only=True, repr=False)
    _shelf: Shelf = attrs.field(init=False, repr=False)
    _saves: Background = attrs.field(init=False, repr=False, factory=Background)
    _lock: RunLock = attrs.field(init=False, repr=False)
    _close: Callable[[], Any] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        _check(self)
        make_folders(self.folder, self.fs)
        object.__setattr__(self, "_shelf", Shelf(self.folder, self.fs))
        object.__setattr__(self, "_lock", RunLock.take(self.folder, self.fs))
        # also when the manager is forgotten, or Python ends
        object.__setattr__(self, "_close", weakref.finalize(self, _abandon, self._saves, self._lock))
        sweep(self.folder, self.fs)

    def save(
        self, state: TrainState, *, metric: float | Tensor | None = None, info: Mapping[str, JSON] | None = None
    ) -> Path:
        """Write the state as `step-<position>.safetensors`, then remove what is superseded; returns the path.

        A state at the position of the last save replaces it, and keeps its metric if none is given. A metric that is
        nan or infinite is never the best. Raises as `save_checkpoint` does; the error of an asynchronous save is raised
        by the next call, which does nothing else then.
        """
        self._check_open()
        self._saves.wait()
        last = next((file.serial for file in self._shelf.newest_first() if file.serial is not None), 0)
        value = as_metric(metric)
        encoded = encode_state("CheckpointManager.save", state, info, value, last + 1)
        if encoded.position < 0:
            raise UsageError(f"CheckpointManager.save: position is {encoded.position}, expected an int >= 0")
        path = self.folder / name_of(encoded.position)
        if value is None and (kept := self._metric_at(path, last)) is not None:
            encoded = encode_state("CheckpointManager.save", state, info, kept, last + 1)
        put = partial(self._shelf.put, path, encoded.copied() if self.asynchronous else encoded, self.keep, self.mode)
        if self.asynchronous:
            self._saves.start(put)
        else:
            put()
        return path

    def latest(self) -> Path | None:
        """The newest file that verifies; None if there is none at all.

        A CheckpointWarning says which newer ones are broken, and why; NoUsableCheckpointError if all are.
        """
        self._saves.wait()
        return first_good("latest", self.folder, self._shelf.newest_first(), _verified)

    def best(self) -> Path | None:
        """The file with the best metric that verifies; None if no file has a metric. Warns and raises as `latest`."""
        self._saves.wait()
        return first_good("best", self.folder, self._shelf.best_first(self.mode), _verified)

    def restore(
        self,
        like: TrainState,
        path: str | os.PathLike[str] | None = None,
        *,
        allow_nonfinite: bool = False,
        exact: bool = False,
    ) -> TrainState:
        """The state of the newest good file, as `load_checkpoint` gives it; or of exactly the file at `path`.

        Without a path, broken files are passed over with one CheckpointWarning that names each and says why. A file
        from another environment, in which a run has other bits, is loaded with a warning that says what is different;
        with `exact=True` it is a StateMismatchError.

        Raises CheckpointNotFoundError if there is no file at all (`latest()` is None then), NoUsableCheckpointError if
        all are broken, and what `load_checkpoint` raises for a file that is not of this run: never a fresh start.
        """
        self._saves.wait()

        def load(file: Path) -> tuple[Path, TrainState, dict[str, Any]]:
            return file, *load_file(file, like, allow_nonfinite, exact)

        if path is not None:
            found = load(Path(path))
        else:
            found = first_good("restore", self.folder, self._shelf.newest_first(), lambda file: load(file.path))
        if found is None:
            raise no_checkpoint("restore", self.folder)
        file, state, wrote = found
        tell("restore", file, wrote, like)
        return state

    def close(self) -> None:
        """Wait for the save that is being written, raise its error if it had one, and let go of the folder."""
        try:
            self._saves.wait()
        finally:
            self._close()

    def __enter__(self) -> "CheckpointManager":
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError as lost:
            if error is None:
                raise
            error.add_note(f"and the last checkpoint was not saved: {lost}")

    def _metric_at(self, path: Path, last: int) -> float | None:
        """The metric of a file, if it is the last save: its state is the one that is being saved again."""
        return next(
            (file.metric for file in self._shelf.newest_first() if file.path == path and file.serial == last), None
        )

    def _check_open(self) -> None:
        if not cast(Any, self._close).alive:
            raise UsageError(f"CheckpointManager: {self.folder} was closed, expected an open one; make another manager")
        if not self._lock.is_mine:
            raise UsageError(
                f"CheckpointManager: the one of {self.folder} was made by another process, of which this is a fork, "
                "expected one of this process; let only that one save"
            )


def _verified(file: Saved) -> Path:
    read_header(file.path, verify=True)
    return file.path


def _check(manager: CheckpointManager) -> None:
    keep, mode = cast(Any, manager.keep), cast(Any, manager.mode)
    if type(keep) is not int or keep < 1:
        raise HyperparameterError(f"CheckpointManager: keep must be an int >= 1, got {keep!r}")
    if mode not in ("min", "max"):
        raise HyperparameterError(f'CheckpointManager: mode must be "min" or "max", got {mode!r}')
    if not isinstance(cast(Any, manager.asynchronous), bool):
        raise HyperparameterError(f"CheckpointManager: asynchronous must be a bool, got {manager.asynchronous!r}")


def _abandon(saves: Background, lock: RunLock) -> None:
    """The end of a manager; after `close` nothing is left to wait for, or to say."""
    try:
        saves.wait()
    except BaseException as lost:  # nobody is left to hand it to
        text = f"a CheckpointManager of {lock.folder} was never closed, and its last save was lost: {lost}"
        warnings.warn(text, CheckpointWarning, stacklevel=2)
    finally:
        lock.release()
