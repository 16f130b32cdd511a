"""One piece of work at a time, in a thread, whose failure is handed to the one who asked for it."""

import threading
from collections.abc import Callable

import attrs


@attrs.define(eq=False)
class Background:
    """What is being done beside the caller. The thread outlives the main one, so that a save at the end is a save."""

    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Do this, once what was begun before is done; raises that one's error, and then does not begin."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="fnopt-save")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being done any more; raises the error of what was, once."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # whatever it is, it belongs to the caller
            self._error = error
