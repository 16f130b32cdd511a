"""Ctrl-C waits while a state is half written."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uninterrupted() -> Generator[None]:
    """Inside, Ctrl-C is noted, and raised at the end: a block that writes in place is done or not begun.

    Costs a few microseconds in the main thread, nothing elsewhere (Python interrupts no other thread).
    """
    handler: Any = None
    if threading.get_ident() == threading.main_thread().ident:
        handler = signal.getsignal(signal.SIGINT)  # None: not set by Python, and not ours to restore
    if handler is None:
        yield
        return
    noted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)
