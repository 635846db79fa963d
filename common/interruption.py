"""SIGTERM and Ctrl-C as a wish that the training loop reads when it can grant it."""

import os
import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nStopping after this step, with a checkpoint; the same signal again ends at once.\n"


class Interruption:
    """While entered, the first signal is noted in `signal`; the second one ends the process as it always does.

    Outside of the main thread, which alone may handle signals, nothing is noted.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        os.write(2, NOTICE)  # print may be interrupted in the middle of itself
