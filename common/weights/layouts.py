"""The layout of an array in another spelling: a permutation and a reshape, written in letters, ours first.

`HWIO -> OIHW` permutes; `D(NK) -> DNK` splits an axis into heads; `IO -> 11IO` adds axes of length one, `1LD -> LD` takes
one away. Letters mean H height, W width, I input, O output, D width of the model, N heads, K width of a head, C channels,
L positions.
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
        left, _, self.there = text.partition(" -> ")
        self.groups = [group.strip("()") for group in re.findall(r"\(\w+\)|\w", left)]
        letters = "".join(self.groups).replace("1", "")
        self.order = [letters.index(letter) for letter in self.there if letter != "1"]
        self.inverse = sorted(range(len(self.order)), key=self.order.__getitem__)

    def shape_there(self, shape: Shape, num_heads: int | None = None) -> Shape:
        """The shape in the other spelling of an array that has `shape` in ours."""
        if not self.there:
            return shape
        split = self._split(shape, num_heads)
        sizes = iter([split[axis] for axis in self.order])
        return tuple(1 if letter == "1" else next(sizes) for letter in self.there)

    def shape_here(self, shape: Shape) -> Shape:
        """The inverse of `shape_there`; ValueError for a shape that cannot be."""
        if not self.there:
            return shape
        sizes = self.sizes(shape)
        return tuple(math.prod(sizes[letter] for letter in group.replace("1", "")) for group in self.groups)

    def sizes(self, shape: Shape) -> dict[str, int]:
        """{letter: length} of a shape in the other spelling; ValueError for one that cannot be."""
        if len(shape) != len(self.there) or any(size != 1 for size, letter in zip(shape, self.there) if letter == "1"):
            raise ValueError(f"{shape} is not {self.there}")
        return dict(zip(self.there, shape))

    def to_there(self, array: np.ndarray, num_heads: int | None = None) -> np.ndarray:
        """The array as the other spelling has it: a view where it can be one."""
        if not self.there:
            return array
        permuted = array.reshape(self._split(array.shape, num_heads)).transpose(self.order)
        return permuted.reshape(self.shape_there(array.shape, num_heads))

    def to_here(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_there`."""
        if not self.there:
            return array
        sizes = [size for size, letter in zip(array.shape, self.there) if letter != "1"]
        return array.reshape(sizes).transpose(self.inverse).reshape(self.shape_here(array.shape))

    def _split(self, shape: Shape, num_heads: int | None) -> Shape:
        sizes = []
        for size, group in zip(shape, self.groups, strict=True):
            if group == "1":
                continue
            sizes += [size] if len(group) == 1 else [num_heads, size // num_heads]  # (NK)
        return tuple(sizes)


@functools.cache
def layout(text: str) -> Layout:
    """The layout that `text` describes."""
    return Layout(text)
