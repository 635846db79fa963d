"""The face of the devices that a run computes on; `Devices` of an engine has it for several processes."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Self

from common.system.errors import SECONDS_FOR_THE_FIRST, UserError

MOST = 2**31 - 1  # that processes agree on: what every device can count to


class Devices:
    """One device of one process. Entered before the run and left after it.

    Batches are cut into `num_devices` contiguous slices; a process has those of its own devices, each the same number.
    Process 0 alone writes. Losses and evaluations are those of the global batch, in every process.
    """

    process, num_processes, num_devices = 0, 1, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        pass

    def agree(self, value: int) -> int:
        """The largest value that any of the processes calls this with, once all have: 0 <= value <= MOST."""
        return value

    def has_lost(self, error: BaseException) -> bool:
        """Whether an error means that another process has ended."""
        return False


def own_cores() -> int:
    """The CPU cores of this machine, shared out among the processes that torchrun started on it."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, os.cpu_count() // (int(local) if local.isdecimal() and int(local) else 1))


@contextlib.contextmanager
def together(devices: Devices) -> Iterator[None]:
    """A block that succeeds in every process or ends all of them, with the error of the first that failed."""
    try:
        yield
    except UserError:
        if devices.agree(MOST - devices.process) == MOST - devices.process:
            raise
    else:
        if not devices.agree(0):
            return
    time.sleep(2 * SECONDS_FOR_THE_FIRST)  # mostly ended within: whoever started the processes ends all when one ends
    raise SystemExit(2)
