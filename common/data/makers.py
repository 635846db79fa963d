"""Processes that make the rows of training batches: threads spend their time in waiting for Python's lock.

They are forked before a framework is imported, when the dataset has been opened, so that they start in some milliseconds
and know all that this process knows. Each fills memory that it shares with this one, from which rows are copied. One ends
when this process does, however that ends, for then nobody holds the other end of its pipe. Signals are not theirs: the
run that they work for goes on until its next checkpoint.
"""

import contextlib
import gc
import mmap
import multiprocessing
import os
import queue
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import numpy as np

from common.data.columns import CHUNK, Arrays, Column, jobs
from common.data.split import Split
from common.system.errors import UserError

FRAMEWORKS = ("torch", "jax", "tensorflow")  # whose threads and devices no fork survives
SHARED_BYTES = 2**26  # of one process; a system gives memory only where something is written
Prepare = Callable[[int], tuple[Split, Sequence[Column]]]  # descriptor of a `Room`, or -1 -> what rows are made of


def can_fork() -> bool:
    """Whether nothing in this process forbids to fork it; the libraries of macOS do."""
    return sys.platform == "linux" and not any(name in sys.modules for name in FRAMEWORKS)


class Maker:
    """One of the processes."""

    def __init__(self, prepare: Prepare, others: Sequence["Maker"]):
        """Forks it."""
        self.connection, theirs = multiprocessing.Pipe()
        self.memory = mmap.mmap(-1, SHARED_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on: of other threads, here numpy's
            self.process = os.fork()
        if not self.process:
            for maker in (self, *others):
                maker.connection.close()
            work(theirs, self.memory, prepare)
        theirs.close()

    def ask(self, *request: object) -> None:
        """Have rows made in its memory. Raises UserError, also where the process has ended."""
        try:
            self.connection.send(request)
            error = self.connection.recv()
        except (OSError, EOFError) as lost:
            raise UserError(
                "A process that decodes images has ended, killed by somebody or for want of memory; start again, perhaps with "
                "fewer --workers or a smaller --cache_gib."
            ) from lost
        if isinstance(error, str):
            raise UserError(error)
        if error is not None:
            raise error

    def close(self) -> None:
        """End it, and wait for that."""
        self.connection.close()
        with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
            os.waitpid(self.process, 0)


class Makers:
    """Several of them; closed at the end."""

    def __init__(self, count: int, prepare: Prepare):
        self.all = []
        for _ in range(count):
            self.all.append(Maker(prepare, self.all))
        self.free = queue.SimpleQueue()

    def begin(self, descriptor: int) -> None:
        """Let them have the room of this descriptor, where it is one, and take orders."""
        for maker in self.all:
            maker.connection.send(descriptor)
            if descriptor >= 0:
                send_handle(maker.connection, descriptor, maker.process)
            self.free.put(maker)

    def jobs(
        self, columns: Sequence[Column], arrays: Arrays, examples: Sequence[int], draws: Arrays, tokens: int | None
    ) -> list[Callable[[], None]]:
        """As `columns.jobs`; the columns are those of `prepare`, in a step for so many `tokens`."""
        streams = {stream.name: draws[stream.name] for column in columns for stream in column.streams}
        size = min(CHUNK, rows_at_once(columns))

        def run(rows: slice) -> None:
            maker = self.free.get()
            try:
                maker.ask(examples[rows], {name: numbers[rows] for name, numbers in streams.items()}, tokens)
                for name, made in views(columns, maker.memory, len(examples[rows])).items():
                    arrays[name][rows] = made
            finally:
                self.free.put(maker)

        starts = range(0, len(examples), size)
        return [lambda start=start: run(slice(start, start + size)) for start in starts]

    def close(self) -> None:
        """End all of them."""
        for maker in self.all:
            maker.close()


def rows_at_once(columns: Sequence[Column]) -> int:
    """How many rows the memory of a process holds."""
    return SHARED_BYTES // sum(column.row_bytes for column in columns)


def views(columns: Sequence[Column], memory: mmap.mmap, count: int) -> Arrays:
    """{column: its array of `count` rows in a process's memory}, one after another."""
    found, start = {}, 0
    for column in columns:
        found[column.name] = np.ndarray((count, *column.shape), column.dtype, memory, start)
        start += count * column.row_bytes
    return found


# --- in the process


def work(connection: Connection, memory: mmap.mmap, prepare: Prepare) -> None:
    """Make rows until nobody is at the other end; never returns."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        descriptor = connection.recv()
        split, columns = prepare(recv_handle(connection) if descriptor >= 0 else descriptor)
        gc.freeze()
        while True:
            connection.send(made(columns, split, memory, *connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException:  # noqa: BLE001  the fork must not return into the run
        traceback.print_exc()
    finally:
        os._exit(0)


def made(
    columns: Sequence[Column],
    split: Split,
    memory: mmap.mmap,
    examples: Sequence[int],
    draws: Arrays,
    tokens: int | None,
) -> str | Exception | None:
    """Make these rows; what is wrong with an image, or an error of the program."""
    own = [column.at(tokens) for column in columns]
    try:
        for job in jobs(own, views(own, memory, len(examples)), split, examples, draws):
            job()
    except UserError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  raised again where the run is
        traceback.print_exc()
        return error
    return None
