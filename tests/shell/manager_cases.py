"""What the tests of CheckpointManager share: states by position, damage, and disks that look on, wait or fail."""

import errno
import threading
from pathlib import Path

import torch

from fnopt.checkpoint import load_checkpoint
from fnopt.checkpoint.fs import Fs
from fnopt.errors import CheckpointError
from fnopt.record import evolve
from fnopt.state import TrainState

LIKE = TrainState.of({"w": torch.zeros(4)})
CALLS = ("create", "write", "seek", "fsync", "close", "replace", "fsync_folder", "unlink")
CALLS += ("names", "stamp", "make_folder")


def at(position, value=None):
    """The state of a run at a position."""
    params = {"w": torch.full((4,), float(position if value is None else value))}
    return evolve(TrainState.of(params, seed=3), position=position)


def positions(folder):
    """The positions of the files that verify and load, in order."""
    found = []
    for path in sorted(Path(folder).glob("step-*.safetensors")):
        try:
            found.append(load_checkpoint(path, like=LIKE).position)
        except CheckpointError:
            continue
    return found


def damage(path, where=-1):
    """One bit of a file changed: the last one of its data, or one of its header."""
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


class Watched(Fs):
    """The real disk; `look(call, args)` is called before each call."""

    def __init__(self, look):
        self.look = look


def _watched(name):
    def call(self, *args):
        self.look(name, args)
        return getattr(Fs, name)(self, *args)

    return call


for _name in CALLS:
    setattr(Watched, _name, _watched(_name))


class Gate:
    """A disk that takes no checkpoint until it is opened: what happens meanwhile is after `save`, before the write."""

    def __init__(self):
        self.opened = threading.Event()
        self.fs = Watched(self._look)

    def _look(self, call, args):
        if call == "create" and args[0].suffix == ".tmp":
            assert self.opened.wait(20)


class Failing:
    """A disk on which the calls named in `on` fail, for as long as there are any, with this errno."""

    def __init__(self, *on, number=errno.EIO):
        self.on, self.number, self.fs = set(on), number, Watched(self._look)

    def _look(self, call, args):
        if call in self.on:
            raise OSError(self.number, "Input/output error" if self.number == errno.EIO else "refused")
