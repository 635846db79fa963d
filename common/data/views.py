"""What a model sees of an image, in training and in evaluation."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from common.data import images, randaugment
from common.models.cards import Preprocessing
from common.recipes.recipe import Recipe


def model_view(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [resolution, resolution, 3]: the middle of `image` at `eval_resize`, or all of it at 0."""
    return images.central_crop(sized(image, preprocessing), preprocessing.resolution, preprocessing.rounding)


def sized(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """What `model_view` crops: `image` with a smaller side of `eval_resize` px, or at 0 squashed to the resolution."""
    side, kind = preprocessing.resolution, preprocessing.resize_kind
    if not preprocessing.eval_resize:
        return images.resize(image, side, side, kind)
    return images.resize_small(image, preprocessing.eval_resize, kind, preprocessing.rounding)


def seen_part(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[slice, slice]:
    """The rows and columns of an image of this height and width that `model_view` shows, to whole pixels."""
    if not preprocessing.eval_resize:
        return slice(size[0]), slice(size[1])
    rounding, parts = preprocessing.rounding, []
    for side in size:
        resized = images.SIDES[rounding](side, preprocessing.eval_resize, min(size))
        first = images.CORNERS[rounding](resized - preprocessing.resolution)
        start, length = (round(px * side / resized) for px in (first, preprocessing.resolution))
        start = min(start, side - max(length, 1))
        parts.append(slice(start, start + max(length, 1)))
    return tuple(parts)


def augment(
    image: np.ndarray, recipe: Recipe, draws: np.ndarray, randaugment_draws: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """uint8 [crop, crop, 3]: the training view of `image` that five numbers in [0, 1) choose; the last one flips.

    RandAugment follows, by a row of numbers for each layer.
    """
    if recipe.crop_min_area < 1:
        box = images.inception_crop(image, recipe.crop_min_area, draws[:4])
        view = images.resize(box, recipe.crop, recipe.crop, recipe.resize_kind)
    else:
        view = images.crop(resized(image, recipe), recipe.crop, draws[0], draws[1])
    view = images.flip(view) if draws[4] < recipe.flip else view
    if recipe.randaugment_layers:
        view = randaugment.randaugment(view, recipe.randaugment_magnitude, randaugment_draws)
    return view


def resized(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What `augment` crops by place alone: `image` with a smaller side of `resize` px, or squashed to a square of it."""
    if recipe.resize_mode == "small_side":
        return images.resize_small(image, recipe.resize, recipe.resize_kind)
    return images.resize(image, recipe.resize, recipe.resize, recipe.resize_kind)


def resized_recipe(recipe: Recipe, resolution: int, resize_kind: str | None = None) -> Recipe:
    """The recipe whose training view shows the same part of an image at another resolution in px, and resize."""
    resize = round(recipe.resize * resolution / recipe.crop)
    return dataclasses.replace(recipe, crop=resolution, resize=resize, resize_kind=resize_kind or recipe.resize_kind)
