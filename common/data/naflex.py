"""Images at their own aspect ratio, as patches within a budget: what a NaFlex sees (https://arxiv.org/abs/2502.14786).

A model takes the patches of an image one below the other, uint8 [L * P, P, 3]: in memory these are the rows [L, P * P * 3]
of the original, and every layer that takes images takes them. Each patch has coordinates, its row and its column, and
a mask says which are padding. Source: `pp/proj/image_text/ops_naflex.py` of google-research/big_vision.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from common.data import images, randaugment
from common.data.columns import VIEW, Column, Stream, randaugment_layers
from common.data.split import Example
from common.recipes.per_step import lengths
from common.recipes.recipe import Recipe

Pair = tuple[int, int]
SHARPEST = 1e-5  # of the original's search for a scale; it refuses images that would shrink to less


@functools.lru_cache(maxsize=4096)
def fitted_size(size: Pair, patch: Pair, tokens: int) -> Pair:
    """Height and width in pixels of the largest image of the aspect ratio of `size` that is cut into at most `tokens` patches.

    Both are multiples of the patch's, rounded up. The scale is searched by halves between 1e-6 and 100 in float32, as the
    original does it. Raises BrokenImage for a strip so thin that no scale fits.
    """

    pairs = tuple((np.float32(side), np.float32(of_patch)) for side, of_patch in zip(size, patch))

    def grid(scale: np.float32) -> list[int]:
        return [max(1, math.ceil(side * scale / of_patch)) for side, of_patch in pairs]

    low, high = np.float32(SHARPEST / 10), np.float32(100)
    while high - low >= np.float32(SHARPEST):
        middle = (low + high) / np.float32(2)
        low, high = (middle, high) if math.prod(grid(middle)) <= tokens else (low, middle)
    if low <= np.float32(SHARPEST):
        raise images.BrokenImage(
            f"has {size[1]} x {size[0]} pixels, too long for --tokens {tokens} at any scale; give more"
        )
    rows, columns = grid(low)
    return rows * patch[0], columns * patch[1]


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


def pictures(strips: np.ndarray, coordinates: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3]: strips of patches put together, each at the top left of as much black as the largest needs."""
    (count, tokens), patch_width = mask.shape, strips.shape[2]
    patches = strips.reshape(count, tokens, -1, patch_width, 3)
    rows, columns = coordinates.reshape(-1, 2).max(0) + 1
    found = np.zeros((count, rows, columns, *patches.shape[2:]), np.uint8)
    found[np.nonzero(mask)[0], *coordinates[mask].T] = patches[mask]
    return found.swapaxes(2, 3).reshape(count, rows * patches.shape[2], columns * patch_width, 3)


# --- columns of batches


def patch_columns(patch: Pair, tokens: int, resize_kind: str) -> tuple[Column, Column, Column]:
    """What a model sees of whole images in evaluation: `columns_of`."""
    whole = lambda size: (0, 0, *size)
    return columns_of(patch, tokens, whole, lambda box, height, width: images.resize(box, height, width, resize_kind))


def train_patch_columns(patch: Pair, recipe: Recipe) -> tuple[Column, Column, Column]:
    """The training view of the recipe, of as many patches as a step draws: a box of `own_box`, resized, flipped, RandAugment."""

    def seen(box: np.ndarray, height: int, width: int, draws: Sequence[float], layers: Sequence) -> np.ndarray:
        view = images.resize(box, height, width, recipe.resize_kind)
        view = images.flip(view) if draws[4] < recipe.flip else view
        return (
            randaugment.randaugment(view, recipe.randaugment_magnitude, layers) if recipe.randaugment_layers else view
        )

    return columns_of(
        patch, max(lengths(recipe.token_lengths)), lambda size, draws: own_box(size, recipe, draws), seen, (VIEW,),
        (randaugment_layers(recipe),),
    )  # fmt: skip


def own_box(size: Pair, recipe: Recipe, draws: Sequence[float]) -> images.Box:
    """What training shows of an image of `size`, by four numbers in [0, 1): a part that has nearly its aspect ratio.

    With `crop_min_area` below 1, a random box whose ratio of width to height is RATIOS of the image's own, as in timm's
    `RandomResizedCropToSequence`; else `crop / resize` of each side, at a random place.
    """
    height, width = size
    if recipe.crop_min_area < 1:
        ratios = tuple(ratio * width / height for ratio in images.RATIOS)
        return images.inception_box(size, recipe.crop_min_area, draws[:4], ratios)
    sides = [max(1, round(side * recipe.crop / recipe.resize)) for side in size]
    top, left = (int(draw * (side - kept + 1)) for draw, side, kept in zip(draws, size, sides))
    return top, left, *sides


def columns_of(
    patch: Pair, tokens: int, box_of: Callable[..., images.Box], seen: Callable[..., np.ndarray],
    streams: tuple[Stream, ...] = (), of_pixels: tuple[Stream, ...] = (),
) -> tuple[Column, Column, Column]:  # fmt: skip
    """Columns `images` uint8 [tokens * P, P, 3], `coordinates` int32 [tokens, 2] and `patch_mask` bool [tokens].

    They show the box that `box_of(size, *draws)` finds in an image, as `seen(box's pixels, height, width, *draws)`. Draws are
    the numbers of `streams`, to which pixels take those of `of_pixels`. Each column is also one for other numbers of patches.
    """

    def grid(example: Example, *draws: Sequence[float]) -> Pair:
        *_, height, width = box_of(example.image.shape[:2], *draws)
        height, width = fitted_size((height, width), patch, tokens)
        return height // patch[0], width // patch[1]

    def strip(example: Example, *draws: Sequence[float]) -> np.ndarray:
        box = box_of(example.image.shape[:2], *draws[: len(streams)])
        view = seen(images.cut(example.image, box), *fitted_size(box[2:], patch, tokens), *draws)
        found = np.zeros((tokens * patch[0], patch[1], 3), np.uint8)
        cut = in_patches(view, patch)
        found[: len(cut)] = cut
        return found

    def coordinates(example: Example, *draws: Sequence[float]) -> np.ndarray:
        return places(*grid(example, *draws), tokens)

    def mask(example: Example, *draws: Sequence[float]) -> np.ndarray:
        return np.arange(tokens) < math.prod(grid(example, *draws))

    of_tokens = [
        lambda count, place=place: columns_of(patch, count, box_of, seen, streams, of_pixels)[place]
        for place in range(3)
    ]
    return (
        Column("images", (tokens * patch[0], patch[1], 3), np.uint8, strip, (*streams, *of_pixels), of_tokens[0]),
        Column("coordinates", (tokens, 2), np.int32, coordinates, streams, of_tokens[1]),
        Column("patch_mask", (tokens,), np.bool_, mask, streams, of_tokens[2]),
    )
