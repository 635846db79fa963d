"""Images that are decoded once: their pixels stay in memory, which the processes of a machine share, while there is room."""

import contextlib
import dataclasses
import fcntl
import mmap
import os
import secrets
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from common.data import images
from common.data.split import Split
from common.data.views import resized, sized
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe
from common.system.memory import available_bytes
from common.system.processes import MOST, Devices

SHARE = 0.25  # of the free memory, where --cache_gib does not say it
SIZE, ALIGNED = struct.Struct("<II"), 64  # height and width, before the pixels of an image; bytes of a line of caches
Shrink = Callable[[np.ndarray], np.ndarray]  # of an image, what all of its views begin with


class Room:
    """Memory for the images of several splits, which all processes that have its `descriptor` share.

    That is a file without a name, in memory alone: whatever ends the last process frees it, and a disk never holds it. At
    its beginning stand the number of bytes that images take and a table for each split; images fill it from its end on.
    """

    def __init__(self, total: int, descriptor: int = -1):
        """At most `total` bytes; without a descriptor they belong to this process alone."""
        self.total, self.descriptor, self._lock = total - total % ALIGNED, descriptor, threading.Lock()
        self._front = ALIGNED  # bytes of the tables and of what stands before them
        self._map = mmap.mmap(descriptor, max(self.total, ALIGNED))
        self._taken = np.frombuffer(self._map, np.int64, 1)

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """The room that another process has made; none without a descriptor."""
        return cls(os.fstat(descriptor).st_size if descriptor >= 0 else 0, descriptor)

    @property
    def left(self) -> int:
        """Bytes that are free."""
        return max(0, self.total - self._front - int(self._taken[0]))

    def table(self, count: int) -> np.ndarray | None:
        """int64 [count]: where each of so many examples lies, or 0; None where it is too large.

        Every process asks for the same tables in the same order, and for all of them before it keeps an image.
        """
        start, self._front = self._front, self._front + aligned(8 * count)
        return np.frombuffer(self._map, np.int64, count, start) if self._front <= self.total else None

    def keep(self, table: np.ndarray, example: int, pixels: np.ndarray) -> None:
        """Copy an image [H, W, 3], if there is room for it, and let a table say where it lies."""
        size = ALIGNED + aligned(pixels.nbytes)
        with self._alone():
            if size > self.left:
                return
            self._taken[0] += size
            place = self.total - int(self._taken[0])
        SIZE.pack_into(self._map, place, *pixels.shape[:2])
        self.at(place)[...] = pixels
        with self._alone():  # which also keeps processors from showing the place before the pixels
            table[example] = place

    def at(self, place: int) -> np.ndarray:
        """The image at a place of a table."""
        return np.ndarray((*SIZE.unpack_from(self._map, place), 3), np.uint8, self._map, place + ALIGNED)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Among threads, and among processes: the system takes the lock back from one that is killed."""
        with self._lock:
            if self.descriptor >= 0:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if self.descriptor >= 0:
                    fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


def aligned(size: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-size // ALIGNED) * ALIGNED


def room_of_machine(gib: float | None, devices: Devices) -> Room:
    """`gib` GiB, by default SHARE of what is free, which all processes of this machine share; every one calls this.

    Where they cannot share, each has its part.
    """
    total = int(SHARE * available_bytes() if gib is None else gib * 2**30)
    descriptor = nameless_file(total)
    if devices.num_processes > 1:
        number = devices.agree(secrets.randbelow(MOST))  # nobody could know it before
        link = Path(tempfile.gettempdir(), f"bit-zoo-{number}")
        common = descriptor if descriptor < 0 else shared(descriptor, link)
        devices.agree(0)  # all have opened it
        with contextlib.suppress(OSError):
            link.unlink()
        if common < 0:
            return Room(total // devices.num_processes)
        return Room.of(common)
    return Room(total, descriptor)


def nameless_file(size: int) -> int:
    """The descriptor of an empty file in memory; -1 where the system has none, or limits its size."""
    try:
        descriptor = os.memfd_create("bit-zoo-decoded")
        os.ftruncate(descriptor, max(size, ALIGNED))
    except (AttributeError, OSError):
        return -1
    return descriptor


def shared(own: int, link: Path) -> int:
    """The nameless file of the process that first made `link`, opened by the others; -1 where it is not to be reached."""
    try:
        os.symlink(f"/proc/{os.getpid()}/fd/{own}", link)
        return own
    except FileExistsError:
        pass
    except OSError:
        return -1
    try:
        theirs = os.open(link, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    kinds = [(found.st_dev, found.st_uid) for found in map(os.fstat, (own, theirs))]
    return theirs if kinds[0] == kinds[1] else -1  # never a file on a disk


def kept(split: Split, room: Room, shrink: Shrink | None = None) -> Split:
    """The same split, which keeps the pixels of each example from its first reading on, while there is `room`.

    Nothing is ever dropped for another: an epoch sees every example once, in another order than the one before, so that
    whatever is kept is as good as anything else. Views of what `shrink` leaves are views of the whole image.
    """
    table = room.table(len(split))
    if table is None:
        return split

    def read(example: int) -> bytes | np.ndarray:
        if place := int(table[example]):
            return room.at(place)
        encoded = split.read(example)
        found = images.decode(encoded, split.exif)
        found = shrink(found) if shrink else found
        if found is not encoded:  # pixels that lie in memory already
            room.keep(table, example, found)
        return found

    return dataclasses.replace(split, read=read)


def kept_splits(splits: dict[str, Split], room: Room, shrinks: dict[str, Shrink | None]) -> dict[str, Split]:
    """All of them `kept`, in one room."""
    return {name: kept(split, room, shrinks.get(name)) for name, split in splits.items()}


def training_shrink(recipe: Recipe, size: tuple[int, int], count: int, room: Room) -> Shrink | None:
    """What every training view of an image begins with; None where that is the image itself.

    `count` images have the typical `size`, height and width. Those that would grow are kept as they are, unless there is
    room for all of them.
    """
    if recipe.crop_min_area < 1:
        return None
    shrunk, whole = 3 * recipe.resize**2, 3 * size[0] * size[1]
    if shrunk > whole and count * shrunk > room.total:
        return None
    return partial(resized, recipe=recipe)


def evaluation_shrink(seen: Preprocessing) -> Shrink:
    """What the view of an image in evaluation begins with."""
    return partial(sized, preprocessing=seen)
