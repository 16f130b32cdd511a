"""Processes as parts of file names, so that what a dead one left behind can be told from what a live one holds.

    .fnopt-<host>.<boot>.<pid>.<start>-<16 hex digits>.tmp     a file that is being written
    .fnopt-<host>.<boot>.<pid>.<start>.lock                    the folder is this process's

A pid alone says little: it is used again, it means another process on another host or in another container, and all of
them are gone after a reboot. So a name holds the host and its machine id, the boot and the pid namespace, and the time
at which the process began. What cannot be looked up from here (another host or container) counts as alive.
"""

import contextlib
import os
import re
import socket
from functools import cache
from pathlib import Path

import attrs

_PATTERN = re.compile(r"\.fnopt-([\w-]+)\.([\w-]+)\.(\d+)\.(\d+)(-[0-9a-f]{16}\.tmp|\.lock)", re.ASCII)


@attrs.frozen
class Process:
    """Who wrote a file; `boot` and `start` are as much as the system says, "-" and 0 where it says nothing."""

    host: str
    boot: str
    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.host}.{self.boot}.{self.pid}.{self.start}"

    def is_dead(self) -> bool:
        """Is it certain that this process is no more?"""
        here = current()
        if self.host != here.host:
            return False
        mine, its = here.boot.split("-"), self.boot.split("-")
        if mine[0] != its[0]:
            return True  # the same machine, booted since
        if mine[1:] != its[1:]:
            return False  # a container beside this one, or before it: its pids cannot be seen from here
        return not _runs(self.pid, self.start)


def current() -> Process:
    """This process."""
    return _current(os.getpid())


def temporary_name(token: str) -> str:
    """The name of a file that this process is writing; `token` is 16 hexadecimal digits."""
    return f".fnopt-{current()}-{token}.tmp"


def lock_name(owner: Process) -> str:
    """The name of the file that says whose folder this is."""
    return f".fnopt-{owner}.lock"


def parse(name: str) -> tuple[Process, bool] | None:
    """Who made a file of this name, and whether it is a lock; None for a name of another kind.

    >>> parse(".fnopt-host.1a-2b.12.345.lock")
    (Process(host='host', boot='1a-2b', pid=12, start=345), True)
    """
    match = _PATTERN.fullmatch(name)
    if match is None:
        return None
    host, boot, pid, start, end = match.groups()
    return Process(host, boot, int(pid), int(start)), end == ".lock"


@cache
def _current(pid: int) -> Process:
    machine = _read("/etc/machine-id")[:8]
    host = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname())[:40] or "_"
    boot = _read("/proc/sys/kernel/random/boot_id")[:8]
    space = ""
    with contextlib.suppress(OSError):
        space = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    stat = _stat(pid)
    return Process(f"{host}-{machine}" if machine else host, f"{boot}-{space}", pid, int(stat[19]) if stat else 0)


def _runs(pid: int, start: int) -> bool:
    """Does the process with this pid run that began at `start`? A zombie does not."""
    stat = _stat(pid)
    if stat:
        return stat[0] not in ("Z", "X") and start in (0, int(stat[19]))
    if os.name == "nt":
        return True  # os.kill would not ask but send a signal
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: the state first, and at 19 when it began, in ticks since boot."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
