"""One writer in a folder: locks of the living hold, those of the dead are broken, and what they left is swept."""

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from manager_cases import LIKE, Failing, Watched, at, positions

import fnopt
from fnopt import CheckpointManager
from fnopt.checkpoint import lock as module
from fnopt.checkpoint.fs import DISK
from fnopt.checkpoint.lock import RunLock, sweep
from fnopt.checkpoint.process import Process, current, lock_name, parse, temporary_name
from fnopt.errors import CheckpointWriteError, RunLockedError, UsageError

HOLD = """
import sys; sys.path[:0] = {paths}
from manager_cases import at
from fnopt import CheckpointManager
from fnopt.checkpoint.process import temporary_name
manager = CheckpointManager({folder})
manager.save(at(1))
(manager.folder / temporary_name("0" * 16)).touch()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the folder and is in the middle of a write."""
    paths = [str(Path(fnopt.__file__).parents[1]), str(Path(__file__).parent)]
    code = HOLD.format(paths=paths, folder=repr(str(tmp_path)))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_live_process_is_respected_and_a_killed_one_is_cleaned_up_after(holder, tmp_path):
    """While the holder lives its folder is refused, naming it; after kill -9 lock and temporary file are removed."""
    before = sorted(path.name for path in tmp_path.iterdir())
    assert sum(name.endswith(".tmp") for name in before) == 1
    with pytest.raises(RunLockedError, match=f"in use by process {holder.pid}; end it first") as caught:
        CheckpointManager(tmp_path)
    assert caught.value.path == str(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    with CheckpointManager(tmp_path) as manager:
        assert manager.restore(LIKE).position == 1
        assert not list(tmp_path.glob(".fnopt-*.tmp"))
        assert len(list(tmp_path.glob(".fnopt-*.lock"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.safetensors"]


def test_a_second_manager_of_this_process_is_refused(tmp_path):
    """Two managers of one folder cannot be, until the first is closed."""
    with CheckpointManager(tmp_path) as first:
        with pytest.raises(RunLockedError, match="another CheckpointManager of this process; close that one first"):
            CheckpointManager(tmp_path)
        first.save(at(1))
    CheckpointManager(tmp_path).close()


def test_a_manager_that_is_forgotten_lets_go(tmp_path):
    """Garbage collection releases the folder."""
    manager = CheckpointManager(tmp_path)
    del manager
    CheckpointManager(tmp_path).close()
    assert not list(tmp_path.iterdir())


def others():
    """Processes that are not this one, by whether they are dead for certain."""
    here = current()
    machine, space = here.boot.split("-")
    return {
        "no such pid": (attrs.evolve(here, pid=2**22 + 1), True),
        "a pid that is used again": (attrs.evolve(here, start=here.start + 1), True),
        "before a reboot": (attrs.evolve(here, boot=f"0{machine[1:]}x-{space}"), True),
        "the parent": (attrs.evolve(here, pid=os.getppid(), start=0), False),
        "another host": (attrs.evolve(here, host="elsewhere", pid=2**22 + 1), False),
        "another container": (attrs.evolve(here, boot=f"{machine}-0{space}", pid=2**22 + 1), False),
    }


@pytest.mark.parametrize("case", others())
def test_only_what_is_dead_for_certain_is_removed(case, tmp_path):
    """A lock and an unfinished file go if their process is dead, and hold if nobody can tell from here."""
    other, dead = others()[case]
    lock, unfinished = tmp_path / lock_name(other), tmp_path / f".fnopt-{other}-{'0' * 16}.tmp"
    lock.touch()
    unfinished.touch()
    if dead:
        CheckpointManager(tmp_path).close()
        assert not list(tmp_path.iterdir())
        return
    with pytest.raises(RunLockedError, match=f"process {other.pid}") as caught:
        CheckpointManager(tmp_path)
    assert (str(lock) in str(caught.value)) == (case != "the parent")
    sweep(tmp_path, DISK)
    assert sorted(tmp_path.iterdir()) == sorted([lock, unfinished])


def test_a_manager_that_takes_everybody_for_dead_is_seen(tmp_path, monkeypatch):
    """Negative control: without the question whether a process lives, a live one's lock is broken."""
    monkeypatch.setattr(Process, "is_dead", lambda self: True)
    with pytest.raises(pytest.fail.Exception):
        test_only_what_is_dead_for_certain_is_removed("the parent", tmp_path)


def test_names_say_whose_a_file_is():
    """The names of locks and unfinished files are read as they were written; others are nobody's."""
    assert parse(lock_name(current())) == (current(), True)
    assert parse(temporary_name("0123456789abcdef")) == (current(), False)
    for name in ("step-0000000001.safetensors", ".fnopt-1-2.tmp", ".fnopt-a.b.1.2", ".fnopt-a.b.x.2.lock", "a.lock"):
        assert parse(name) is None
    assert not current().is_dead()
    assert current().pid == os.getpid()


def nested(folder, outer, inner, moment, monkeypatch):
    """Two claims, of which the second happens as a whole before call number `moment` of the first: who holds?"""
    calls, holds = itertools.count(), []

    def look(call, args):
        if next(calls) == moment:
            monkeypatch.setattr(module, "current", lambda: inner)
            holds.append(("inner", RunLock(folder, inner, DISK)._claim() is None))
            monkeypatch.setattr(module, "current", lambda: outer)

    monkeypatch.setattr(module, "current", lambda: outer)
    holds.append(("outer", RunLock(folder, outer, Watched(look))._claim() is None))
    for path in folder.iterdir():
        path.unlink()
    return next(calls) - 1, [name for name, held in holds if held]


def both_at_some_moment(folder, monkeypatch):
    """The moments at which two claimants both hold the folder, and how many moments were tried."""
    here, parent = current(), attrs.evolve(current(), pid=os.getppid(), start=0)
    both, moment, total = [], 0, 1
    while moment < total:
        total, holds = nested(folder, here, parent, moment, monkeypatch)
        both += [moment] * (len(holds) > 1)
        moment += 1
    monkeypatch.undo()
    return both, moment


def test_two_that_come_at_once_never_both_stay(tmp_path, monkeypatch):
    """Whenever the other one comes in between, at most one holds the folder."""
    both, moments = both_at_some_moment(tmp_path, monkeypatch)
    assert moments > 3
    assert both == []


def test_looking_before_claiming_is_seen(tmp_path, monkeypatch):
    """Negative control: a lock that first looks and then makes its file lets two in."""

    def claim(self):
        rival = self._rival()
        if rival is None:
            self._write()
        return rival

    monkeypatch.setattr(RunLock, "_claim", claim)
    here, parent = current(), attrs.evolve(current(), pid=os.getppid(), start=0)
    assert any(len(nested(tmp_path, here, parent, moment, monkeypatch)[1]) > 1 for moment in range(4))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["create", "write", "fsync", "close"])
def test_a_folder_that_takes_no_file_is_known_at_the_start(call, number, tmp_path):
    """The first write is before training: its failure has the errno, and leaves nothing."""
    with pytest.raises(CheckpointWriteError, match=f"cannot write to {tmp_path}.*before training") as caught:
        CheckpointManager(tmp_path, fs=Failing(call, number=number).fs)
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none_or_cannot_be_made_is_refused(tmp_path):
    """A file for a folder, and a folder below a file."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointWriteError, match="cannot write") as caught:
            CheckpointManager(path)
        assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(CheckpointWriteError) as caught:
        CheckpointManager(tmp_path / "run", fs=Failing("make_folder", number=errno.EACCES).fs)
    assert caught.value.errno == errno.EACCES


def test_a_fork_neither_saves_nor_lets_go(tmp_path, monkeypatch):
    """In a forked child the manager is the parent's: it refuses to save, and its end leaves the lock."""
    manager = CheckpointManager(tmp_path)
    child = attrs.evolve(current(), pid=current().pid + 1)
    with monkeypatch.context() as forked:
        forked.setattr(module, "current", lambda: child)
        with pytest.raises(UsageError, match="made by another process, of which this is a fork"):
            manager.save(at(1))
        manager._lock.release()
    assert len(list(tmp_path.iterdir())) == 1
    manager.save(at(1))
    manager.close()
    assert positions(tmp_path) == [1]
