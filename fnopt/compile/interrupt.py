"""Ctrl-C waits while a state is half written."""

import signal
import sys
import threading
from typing import Any

_raw: Any = sys.modules.get("_signal", signal)  # below the enums of `signal`, which cost ten times as much as the calls


class Guard:
    """Inside, Ctrl-C is noted, and raised at the end: a block that writes in place is done or not begun.

    Costs a microsecond in the main thread, nothing elsewhere (Python interrupts no other thread).
    """

    def __enter__(self) -> None:
        self._handler: Any = None
        self._noted = False
        if threading.get_ident() == threading.main_thread().ident:
            self._handler = _raw.getsignal(signal.SIGINT)  # None: not set by Python, and not ours to restore
            if self._handler is not None:
                _raw.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            _raw.signal(signal.SIGINT, self._handler)
            if self._noted:
                signal.raise_signal(signal.SIGINT)

    def _note(self, *_: object) -> None:
        self._noted = True
