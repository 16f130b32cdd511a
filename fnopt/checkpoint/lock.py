"""A folder belongs to one writer: the run lock, and the sweep of what dead writers left.

A lock is a file whose name says whose it is. So it is complete the moment it exists, and nobody can remove another
one's by mistake: only the owner does, or whoever knows that the owner is dead. Whoever wants the folder makes its own
file, then looks for others, and goes if one is of a live process. Two can refuse each other, and try again; never do
both stay.
"""

import contextlib
import random
import time
from pathlib import Path

import attrs

from ..errors import CheckpointWriteError, RunLockedError
from .fs import Fs, Output, names_in, unwritable
from .process import Process, current, lock_name, parse

_TRIES = 5


@attrs.frozen
class RunLock:
    """A folder that is held by this process, until `release`."""

    folder: Path
    owner: Process
    fs: Fs

    @classmethod
    def take(cls, folder: Path, fs: Fs) -> "RunLock":
        """Hold the folder; RunLockedError if another may be writing there, CheckpointWriteError if nobody can write."""
        lock = cls(folder, current(), fs)
        tries = _TRIES
        while (rival := lock._claim()) is not None:
            tries -= 1
            if not tries:
                raise _locked(folder, rival)
            time.sleep(random.uniform(0.0, 0.02))  # the rival may be doing the same
        return lock

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / lock_name(self.owner)

    @property
    def is_mine(self) -> bool:
        """False in a forked child, whose parent holds the folder."""
        return self.owner == current()

    def release(self) -> None:
        """Let go of the folder, if it is this process that holds it."""
        if self.is_mine:
            with contextlib.suppress(OSError):  # gone already, or the disk is
                self.fs.unlink(self.path)

    def _claim(self) -> Process | None:
        """Make the file, and leave it there unless there is a rival, who is returned."""
        self._write()
        try:
            rival = self._rival()
        except BaseException:
            self.release()
            raise
        if rival is not None:
            self.release()
        return rival

    def _write(self) -> None:
        """The first write of a run, synced, so that a folder or disk that takes none is known before training."""
        try:
            fd = self.fs.create(self.path)
        except FileExistsError:
            raise _locked(self.folder, self.owner) from None
        except OSError as cause:
            raise _unwritable(self.folder, cause) from None
        try:
            try:
                Output(self.fs, fd).write(f"process {self.owner.pid} writes checkpoints here\n".encode())
                self.fs.fsync(fd)
            finally:
                self.fs.close(fd)
        except BaseException as cause:
            self.release()
            if isinstance(cause, OSError):
                raise _unwritable(self.folder, cause) from None
            raise

    def _rival(self) -> Process | None:
        """Another one that has a claim and may be alive; the claims of dead ones are removed."""
        for name in names_in(self.folder, self.fs):
            found = parse(name)
            if found is None or not found[1] or found[0] == self.owner:
                continue
            if not found[0].is_dead():
                return found[0]
            with contextlib.suppress(OSError):
                self.fs.unlink(self.folder / name)
        return None


def sweep(folder: Path, fs: Fs) -> None:
    """Remove the unfinished files of processes that are dead for certain."""
    for name in names_in(folder, fs):
        found = parse(name)
        if found is not None and not found[1] and found[0].is_dead():
            with contextlib.suppress(OSError):
                fs.unlink(folder / name)


def _locked(folder: Path, owner: Process) -> RunLockedError:
    here, file = current(), folder / lock_name(owner)
    if owner == here:
        who, hint = "another CheckpointManager of this process", "close that one first"
    elif owner.host == here.host and owner.boot == here.boot:
        who, hint = f"process {owner.pid}", "end it first, or give each run a folder of its own"
    else:
        who = f"process {owner.pid} of {owner.host}"
        hint = f"whether it is alive cannot be seen from here; if it is not, remove {file}"
    return RunLockedError(
        f"{folder} is in use by {who}; {hint}",
        path=str(folder),
        item="lock",
        expected="a folder of no other process",
        found=str(owner),
        hint=hint,
    )


def _unwritable(folder: Path, cause: OSError) -> CheckpointWriteError:
    why = cause.strerror or str(cause)
    hint = "no checkpoint could be saved there; mend it before training"
    return unwritable(f"cannot write to {folder}", folder, why, hint, cause.errno)
