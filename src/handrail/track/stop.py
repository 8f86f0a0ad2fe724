"""A polite way to end: the first signal asks, the second ends at once."""

import os
import signal
import threading
from types import FrameType
from typing import Any

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


class StopRequest:
    """Listens for SIGTERM and SIGINT between `listen` and `ignore`, in the main thread only."""

    def __init__(self) -> None:
        self.status = 0  # exit status that was asked for; 0 while nobody asked
        self._previous: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._asked) for number in STATUS}

    def ignore(self) -> None:
        """Give both signals back to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _asked(self, number: int, frame: FrameType | None) -> None:
        status = STATUS[signal.Signals(number)]
        if self.status:
            os._exit(status)
        self.status = status
        # A plain write: a signal may come in the middle of a print, which must not be entered twice.
        os.write(2, b"\nStopping: this step is finished and saved first. Once more ends at once.\n")
