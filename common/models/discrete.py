"""How maps become classes, and vectors levels: the numbers that models of maps compute with."""

import functools
from typing import Literal, NamedTuple

import numpy as np

from common.recipes.choices import Target


class Maps(NamedTuple):
    """What a target's maps are: the trainers `colorization_task.py`, `depth_task.py` and `panoptic_task.py` of big_vision."""

    names: tuple[str, ...]  # one of each for a pixel
    kind: Literal["values", "classes"]  # in [-1, 1], with a squared error, or numbers, with a cross-entropy
    bins: tuple[int, ...]  # of the originals: channels, or classes
    first: int = 0  # least class that an error is counted for


MAPS: dict[Target, Maps] = {
    "colorization": Maps(("color",), "values", (3,)),
    "depth": Maps(("depth",), "classes", (256,), first=1),  # class 0 is that of pixels without a measurement, too
    "panoptic": Maps(("semantics", "instances"), "classes", (134, 100)),  # of COCO, with 0 for what is not known
}
NEAREST, FARTHEST = 1e-3, 10.0  # metres, between which depth falls into classes of equal width


@functools.cache
def depth_edges(bins: int) -> np.ndarray:
    """float32 [bins - 1]: where a class of depth, in metres, begins that is not the first; they are equally wide."""
    return (NEAREST + (FARTHEST - NEAREST) * np.arange(1, bins) / bins).astype(np.float32)


class Rounding(NamedTuple):
    """How FSQ rounds a number of a vector, one entry of each array for each: `fsq/fsq.ipynb` of google-research.

    bounded = tanh(number + shift) * reach - offset;  its level is round(bounded) + half, half to even.
    """

    reach: np.ndarray
    offset: np.ndarray
    shift: np.ndarray  # by tan, as there, not by atanh: an even number of levels is not quite even about 0
    half: np.ndarray
    basis: np.ndarray  # int: a code is the sum of levels times these; the first number varies fastest

    @classmethod
    def of(cls, levels: tuple[int, ...]) -> "Rounding":
        """That of so many levels."""
        count = np.array(levels)
        reach, offset = (count - 1) * (1 - 1e-3) / 2, np.where(count % 2, 0.0, 0.5)
        return cls(reach, offset, np.tan(offset / reach), (count // 2).astype(float), np.cumprod([1, *levels[:-1]]))
