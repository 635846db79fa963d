"""The layout of an array in another spelling: a permutation and a reshape, written in letters, ours first.

`HWIO -> OIHW` permutes; `D(NK) -> DNK` splits an axis into heads; `IO -> 11IO` adds axes of length one, `1LD -> LD` takes
one away, `1 -> ` the only one; `HWIO -> O(HWI)` joins the axes of a patch, `1(YX)D -> YXD` splits those of a square grid. Letters mean H height, W width, I input, O output,
D width of the model, N heads, K width of a head, C channels, L positions, Y rows, X columns, P pixels of a patch.
"""

import functools
import math
import re

import numpy as np

Shape = tuple[int, ...]


BLOCK = 128  # columns that are transposed at a time, so that the cache holds what it reads and writes


def contiguous(array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """`array` in C order, in `out` where it is given: transposed matrices three times as fast as numpy's copy."""
    if out is None and array.flags.c_contiguous:
        return array
    out = np.empty(array.shape, array.dtype) if out is None else out
    if array.ndim == 2 and array.flags.f_contiguous:
        for first in range(0, array.shape[1], BLOCK):
            out[:, first : first + BLOCK] = array[:, first : first + BLOCK]
    else:
        out[...] = array
    return out


class Layout:
    """One such sentence, in both directions; the empty sentence leaves arrays as they are."""

    def __init__(self, text: str):
        self.text = text
        left, _, right = text.partition(" -> ")
        self.groups, self.there = (
            [one.strip("()") for one in re.findall(r"\(\w+\)|\w", side)] for side in (left, right)
        )
        letters = "".join(self.groups).replace("1", "")
        self.order = [letters.index(letter) for letter in "".join(self.there) if letter != "1"]
        self.inverse = sorted(range(len(self.order)), key=self.order.__getitem__)

    def shape_there(self, shape: Shape, number: int | None = None) -> Shape:
        """The shape in the other spelling of an array that has `shape` in ours; `number` of heads, or of pixels."""
        if not self.text:
            return shape
        split = self._split(shape, number)
        sizes = iter([split[axis] for axis in self.order])
        return tuple(math.prod(1 if letter == "1" else next(sizes) for letter in group) for group in self.there)

    def shape_here(self, shape: Shape) -> Shape:
        """The inverse of `shape_there`; ValueError for a shape that cannot be."""
        if not self.text:
            return shape
        sizes = self.sizes(shape)
        return tuple(math.prod(sizes[letter] for letter in group.replace("1", "")) for group in self.groups)

    def sizes(self, shape: Shape) -> dict[str, int]:
        """{letter: length} of a shape in the other spelling; ValueError for one that cannot be."""
        if len(shape) != len(self.there) or any(size != 1 for size, letter in zip(shape, self.there) if letter == "1"):
            raise ValueError(f"{shape} is not {self.text.partition(' -> ')[2]}")
        return {letter: one for size, group in zip(shape, self.there) for letter, one in self._parts(size, group)}

    @staticmethod
    def _parts(size: int, group: str) -> list[tuple[str, int]]:
        """The letters and lengths of an axis there; of a patch, which is square and has three channels."""
        if len(group) == 1:
            return [(group, size)]
        side = math.isqrt(size // 3)
        if size != 3 * side**2:
            raise ValueError(f"{size} is not that of a square patch")
        return list(zip(group, (side, side, 3), strict=True))

    def to_there(self, array: np.ndarray, number: int | None = None) -> np.ndarray:
        """The array as the other spelling has it: a view where it can be one."""
        if not self.text:
            return array
        permuted = array.reshape(self._split(array.shape, number)).transpose(self.order)
        return permuted.reshape(self.shape_there(array.shape, number))

    def to_here(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_there`."""
        if not self.text:
            return array
        sizes = [size for letter, size in self.sizes(array.shape).items() if letter != "1"]
        return array.reshape(sizes).transpose(self.inverse).reshape(self.shape_here(array.shape))

    def _split(self, shape: Shape, number: int | None) -> Shape:
        sizes = []
        for size, group in zip(shape, self.groups, strict=True):
            if group == "1":
                continue
            first = math.isqrt(size) if group == "YX" else size // number if group[-1] == "P" else number
            sizes += [size] if len(group) == 1 else [first, size // first]
        return tuple(sizes)


@functools.cache
def layout(text: str) -> Layout:
    """The layout that `text` describes."""
    return Layout(text)
