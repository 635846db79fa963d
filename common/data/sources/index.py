"""Indices of large datasets: the result of a scan is kept until the disk changes.

An index is a safetensors file beside the data, or in the user's cache folder where that is read-only, with the state of
what was scanned (modification time, size and inode of folders and files, also of the folders that the scan met on its
way) and a digest over everything. It is memory-mapped, so that processes share it. A damaged index, or one of another state, is
built again. Changes without a new modification time stay unseen: on file systems that keep no time for folders. The index
does not hold pixels, so a change within a file does not matter to it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.system.errors import UserError
from common.system.files import NO_LOCKS, write_atomically
from common.system.progress import note
from common.system.remote import staging_folder
from common.weights.containers import safetensors, sealed

NAME = ".bit-zoo-index"
VERSION = 2  # of what the scans of folder.py and tfds.py return
QUICK_SECONDS = 0.3  # what takes no longer is scanned at every start
SETTLED_SECONDS = 2  # within the tick of a file system's clock, a change may leave no trace
MET = "met"  # the array that names what the scan met, as JSON
TYPES = {stored: np.dtype(name) for name, stored in safetensors.TYPES.items()}

Arrays = dict[str, np.ndarray]


Watch = Callable[[Path], None]  # called by a scan with every further folder, before the scan looks into it


def indexed(folder: Path, watched: Sequence[Path], scan: Callable[[Watch], Arrays], purpose: str = "") -> Arrays:
    """The result of `scan(watch)`, or a kept one while the folders and files of `watched`, and those it met, stay.

    `purpose` distinguishes several indices of one folder. Two processes do not scan at once: the second waits, and reads.
    """
    state = State(folder, watched)
    places = [place / f"{NAME}{purpose}.safetensors" for place in (folder, staging_folder(str(folder.resolve())))]
    arrays = read_first(places, state)
    if arrays is None:
        with locked(folder):
            arrays = read_first(places, state)  # of the process that this one waited for
            if arrays is None:
                started = time.monotonic()
                arrays = scan(state.add)
                now = State(folder, state.paths)
                settled = now.newest_seconds < time.time() - SETTLED_SECONDS and state.digest == now.digest
                if settled and time.monotonic() - started > QUICK_SECONDS:
                    met = [os.path.relpath(path, folder) for path in state.paths[len(watched) :]]
                    keep(places, state, arrays | {MET: np.frombuffer(json.dumps(met).encode(), np.uint8)})
    return arrays


class State:
    """The state of folders and files on the disk, each at the time when it was added."""

    def __init__(self, folder: Path, paths: Sequence[Path]):
        """UserError where one of `paths` cannot be read."""
        self.folder, self.paths, self.facts = folder, [], []
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        """Take note of one more; UserError where it cannot be read."""
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}); restore it.") from error
        self.paths.append(path)
        self.facts.append((found.st_mtime_ns, found.st_size, found.st_ino, os.path.relpath(path, self.folder)))

    @property
    def digest(self) -> str:
        """Of all facts."""
        return hashlib.sha256(json.dumps([VERSION, self.facts]).encode()).hexdigest()

    @property
    def newest_seconds(self) -> float:
        """When the last of them changed."""
        return max(self.facts)[0] / 1e9


def read_first(places: Sequence[Path], state: State) -> Arrays | None:
    """The arrays of the first intact index of this state, and of the state of what its scan met."""
    for path in places:
        if path.is_file():
            with contextlib.suppress(UserError, ValueError, KeyError, TypeError):  # damaged: it is built again
                header = sealed.check(path)
                tensors = json.loads(header)
                stated = json.loads(tensors.pop("__metadata__")["state"])
                arrays = {name: mapped(path, 8 + len(header), tensor) for name, tensor in tensors.items()}
                met = [state.folder / name for name in json.loads(arrays.pop(MET).tobytes())]
                if (State(state.folder, [*state.paths, *met]) if met else state).digest == stated:
                    return arrays
    return None


def mapped(path: Path, start: int, tensor: dict[str, Any]) -> np.ndarray:
    """One array of a safetensors file whose data begin at `start`, read when it is looked at."""
    shape, dtype = tuple(tensor["shape"]), TYPES[tensor["dtype"]]
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", start + tensor["data_offsets"][0], shape))


def keep(places: Sequence[Path], state: State, arrays: Arrays) -> None:
    """Write an index to the first place that can be written."""
    for path in places:
        try:
            return write_atomically(path, lambda file: sealed.write(file, arrays, {"state": json.dumps(state.digest)}))
        except UserError as error:
            reason = str(error)
    note(f"The index of the dataset cannot be kept, and the next start scans it again. {reason}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the operating system's lock on the folder itself, which takes no file; without it where there are no locks.

    UserError for a broken disk.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (*NO_LOCKS, errno.EBADF):  # NFS locks only what is open for writing
                raise UserError(f"{folder} cannot be locked ({error.strerror or error}); check its disk.") from error
        yield
    finally:
        os.close(descriptor)
