"""The order of an epoch for examples that lie behind one another in large files, so that reading stays sequential."""

import dataclasses
from typing import Self

import numpy as np

BLOCK_BYTES = 2**22  # read at once, a disk and a network give nearly all of their speed
MIXED_BYTES = 2**28  # of blocks that are mixed with one another; a set of no more is permuted as a whole


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, so that an order can be kept
class Blocks:
    """In which piece of its file each example lies; an epoch goes through the pieces in a random order."""

    numbers: np.ndarray  # int [N]: examples side by side with one number are a block
    mixed: int = MIXED_BYTES // BLOCK_BYTES  # successive blocks of an epoch whose examples are mixed

    @classmethod
    def of_bytes(cls, files: np.ndarray, starts: np.ndarray) -> Self:
        """Those of examples that begin at byte `starts` [N] of the files with the numbers `files` [N]."""
        pieces = starts // BLOCK_BYTES
        return cls(np.cumsum((np.diff(files, prepend=-1) != 0) | (np.diff(pieces, prepend=-1) != 0), dtype=np.int32))

    def __getitem__(self, examples: np.ndarray) -> "Blocks":
        """The blocks of these examples, in this order."""
        return Blocks(self.numbers[examples], self.mixed)

    def permutation(self, rng: np.random.Generator) -> np.ndarray:
        """int64 [N]: a random order of the blocks, and of the examples of every `mixed` blocks that follow one another.

        Where there are no more blocks than that, it is the order of examples that lie anywhere.
        """
        starts = np.flatnonzero(np.diff(self.numbers, prepend=-1))
        if len(starts) <= self.mixed:
            return rng.permutation(len(self.numbers))
        ends, order, parts = np.append(starts[1:], len(self.numbers)), rng.permutation(len(starts)), []
        for first in range(0, len(order), self.mixed):
            blocks = order[first : first + self.mixed]
            parts.append(rng.permutation(np.concatenate([np.arange(starts[block], ends[block]) for block in blocks])))
        return np.concatenate(parts)
