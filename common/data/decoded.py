"""Images that are decoded once: their pixels stay in memory, as many as there is room for."""

import dataclasses
import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from common.data import images
from common.data.split import Split
from common.data.views import resized, sized
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe
from common.system.memory import available_bytes

SHARE = 0.25  # of the free memory, where --cache_gib does not say it
Shrink = Callable[[np.ndarray], np.ndarray]  # of an image, what all of its views begin with


class Room:
    """Memory that several splits of a run share, for all of its processes on a machine together."""

    def __init__(self, gib: float | None, num_processes: int = 1):
        total = SHARE * available_bytes() if gib is None else gib * 2**30
        self._left, self._lock = int(total / num_processes), threading.Lock()

    @property
    def left(self) -> int:
        """Bytes that are free."""
        return self._left

    def takes(self, size: int) -> bool:
        """Whether there is room for `size` more bytes, which are then taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True


def kept(split: Split, room: Room, shrink: Shrink | None = None) -> Split:
    """The same split, which keeps the pixels of each example from its first reading on, while there is `room`.

    Nothing is ever dropped for another: an epoch sees every example once, in another order than the one before, so that
    whatever is kept is as good as anything else. Views of what `shrink` leaves are views of the whole image.
    """
    pixels: dict[int, np.ndarray] = {}

    def read(example: int) -> bytes | np.ndarray:
        found = pixels.get(example)
        if found is None:
            found = images.decode(split.read(example), split.exif)
            found = np.ascontiguousarray(shrink(found) if shrink else found)
            if room.takes(found.nbytes):
                pixels[example] = found
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
    if shrunk > whole and count * shrunk > room.left:
        return None
    return partial(resized, recipe=recipe)


def evaluation_shrink(seen: Preprocessing) -> Shrink:
    """What the view of an image in evaluation begins with."""
    return partial(sized, preprocessing=seen)
