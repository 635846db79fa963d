"""SIGTERM and Ctrl-C as a request, which the training loop reads between steps."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_APART = 2  # between two wishes: torchrun hands on a signal that its processes may have received themselves
NOTICE = b"\nStopping after this step, with a checkpoint; another signal, two seconds later, ends at once.\n"


class Interruption:
    """While entered, the first signal is noted in `signal`; one that comes later ends the process as it always does.

    Outside of the main thread, which alone may handle signals, nothing is noted.
    """

    def __init__(self):
        self.signal: int | None = None
        self._noted = 0.0
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._noted = number, time.monotonic()
            os.write(2, NOTICE)  # print may be interrupted in the middle of itself
        elif time.monotonic() - self._noted > SECONDS_APART:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
