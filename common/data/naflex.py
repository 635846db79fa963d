"""Images at their own aspect ratio, as patches within a budget: what a NaFlex sees (https://arxiv.org/abs/2502.14786).

A model takes the patches of an image one below the other, uint8 [L * P, P, 3]: in memory these are the rows [L, P * P * 3]
of the original, and every layer that takes images takes them. Each patch has coordinates, its row and its column, and
a mask says which are padding. Source: `pp/proj/image_text/ops_naflex.py` of google-research/big_vision.
"""

import functools
import math

import numpy as np

from common.data import images
from common.data.columns import Column
from common.data.split import Example

Pair = tuple[int, int]
SHARPEST = 1e-5  # of the original's search for a scale; it refuses images that would shrink to less


@functools.lru_cache(maxsize=4096)
def fitted_size(size: Pair, patch: Pair, tokens: int) -> Pair:
    """Height and width in pixels of the largest image of the aspect ratio of `size` that is cut into at most `tokens` patches.

    Both are multiples of the patch's, rounded up. The scale is searched by halves between 1e-6 and 100 in float32, as the
    original does it. Raises BrokenImage for a strip so thin that no scale fits.
    """

    def sides(scale: np.float32) -> np.ndarray:
        return np.maximum(np.ceil(np.array(size, np.float32) * scale / np.array(patch, np.float32)), 1).astype(int)

    low, high = np.float32(SHARPEST / 10), np.float32(100)
    while high - low >= np.float32(SHARPEST):
        middle = (low + high) / np.float32(2)
        low, high = (middle, high) if math.prod(sides(middle).tolist()) <= tokens else (low, middle)
    if low <= np.float32(SHARPEST):
        raise images.BrokenImage(
            f"has {size[1]} x {size[0]} pixels, too long for --tokens {tokens} at any scale; give more"
        )
    return tuple((sides(low) * patch).tolist())


def in_patches(image: np.ndarray, patch: Pair) -> np.ndarray:
    """[rows * columns * P, P, 3]: the patches of an image [H, W, 3], row after row, one below the other."""
    height, width = patch
    rows, columns = image.shape[0] // height, image.shape[1] // width
    cut = image.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
    return cut.reshape(rows * columns * height, width, -1)


def places(rows: int, columns: int, tokens: int) -> np.ndarray:
    """int32 [tokens, 2]: the row and column of every patch, zeros after the last."""
    found = np.zeros((tokens, 2), np.int32)
    found[: rows * columns] = np.indices((rows, columns)).reshape(2, -1).T
    return found


def patch_columns(patch: Pair, tokens: int, resize_kind: str) -> tuple[Column, Column, Column]:
    """Columns `images` uint8 [tokens * P, P, 3], `coordinates` int32 [tokens, 2] and `patch_mask` bool [tokens]."""

    def grid(example: Example) -> Pair:
        height, width = fitted_size(example.image.shape[:2], patch, tokens)
        return height // patch[0], width // patch[1]

    def strip(example: Example) -> np.ndarray:
        size = fitted_size(example.image.shape[:2], patch, tokens)
        found = np.zeros((tokens * patch[0], patch[1], 3), np.uint8)
        cut = in_patches(images.resize(example.image, *size, resize_kind), patch)
        found[: len(cut)] = cut
        return found

    return (
        Column("images", (tokens * patch[0], patch[1], 3), np.uint8, strip),
        Column("coordinates", (tokens, 2), np.int32, lambda example: places(*grid(example), tokens)),
        Column("patch_mask", (tokens,), np.bool_, lambda example: np.arange(tokens) < math.prod(grid(example))),
    )
