"""Signals: a run that is asked to stop ends after a whole step, so that there is something to save."""

import signal as signals
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import attrs

_ASKS = (signals.SIGINT, signals.SIGTERM)


@attrs.define
class Stop:
    """Has somebody asked the run to stop?

    signal      the signal that asked; None while nobody has
    requested   has one come? The truth of a Stop, too: `if stop:`
    status      the exit status that says so to a shell or scheduler: 130, 143; 0 while nobody has asked
    """

    signal: signals.Signals | None = None

    @property
    def requested(self) -> bool:
        """Has a signal come?"""
        return self.signal is not None

    def __bool__(self) -> bool:
        return self.requested

    @property
    def status(self) -> int:
        """128 + the number of the signal, or 0."""
        return 0 if self.signal is None else 128 + self.signal

    def exit(self, saved: object) -> None:
        """If somebody asked: say where the run is saved, on stderr, and leave with `status` (a SystemExit)."""
        if self.signal is not None:
            print(f"stopped by {self.signal.name}; saved {saved}", file=sys.stderr, flush=True)
            raise SystemExit(self.status)


@contextmanager
def stop_on_signal() -> Generator[Stop]:
    """Inside, the first SIGINT (Ctrl-C) or SIGTERM is only noted in `stop.requested`: the step that runs is finished.

    The second one ends the block at once, wherever it is: KeyboardInterrupt for SIGINT, SystemExit(143) for SIGTERM;
    from then on, and after the block, the handlers are those from before. A signal that the process ignores stays
    ignored (a job in the background of a shell ignores Ctrl-C). Only a main thread can be told: elsewhere nothing is
    set, and `requested` stays False. Signals wait while Python waits, for a kernel or a batch.

    >>> with stop_on_signal() as stop:
    ...     for batch in range(1000):
    ...         if batch == 3:
    ...             signals.raise_signal(signals.SIGTERM)        # somebody stops the job
    ...         if stop.requested:
    ...             break
    >>> batch, stop.status                                       # now save, and stop.exit("run/last.safetensors")
    (3, 143)
    """
    stop, before = Stop(), dict[int, Any]()

    def restore() -> None:
        while before:
            signals.signal(*before.popitem())

    def note(number: int, _: Any) -> None:
        if not stop.requested:
            stop.signal = signals.Signals(number)
            return
        restore()
        if number == signals.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in _ASKS:
            handler = signals.getsignal(number)
            if handler not in (signals.SIG_IGN, None):  # None: not set by Python, and not ours to restore
                before[number] = handler
                signals.signal(number, note)
    try:
        yield stop
    finally:
        restore()
