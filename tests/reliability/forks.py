"""Children of a process in which torch is imported already: 40 ms for a life, and what they say is in shared memory.

For a process with one thread only: `verdict.isolated` starts one.
"""

import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

Board = Sequence[int]  # numbers that parent and children see, and that outlive a kill


def board(size: int) -> memoryview:
    """So many shared integers, 0 at first; each is written in one go."""
    return memoryview(mmap.mmap(-1, 8 * size)).cast("q")


def fork(work: Callable[[], Any]) -> int:
    """The pid of a child that does this, and ends with status 0; with 70 if an error comes out."""
    pid = os.fork()
    if not pid:
        _end(work)
    return pid


def _end(work: Callable[[], Any]) -> NoReturn:
    status = 70
    try:
        work()
        status = 0
    except SystemExit as asked:
        status = int(asked.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def kill_after(pid: int, seconds: float) -> int:
    """SIGKILL it after so long; its return code as subprocess has it: -9, unless it had ended by then."""
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return returncode(pid)


def returncode(pid: int) -> int:
    """Wait for the end of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until this holds; an error if it never does."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("the child never came so far")
        time.sleep(0.0005)
