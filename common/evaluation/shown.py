"""Pictures of maps, and those that a run leaves: images, what is known of them, and what was predicted, side by side."""

import colorsys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.images import BrokenImage, decode, resize
from common.evaluation.pictures import heat
from common.recipes.choices import Target
from common.system.errors import UserError, reason
from common.system.files import read_regular, write_atomically

FILE = "maps.png"
MOST_SHOWN = 8  # images in it
LEAST_PX, MOST_PX = 96, 160  # sides of the pictures in it
FARTHEST = 10.0  # metres, that are shown in the last colour


class Shown(NamedTuple):
    """One image: its number in the split, as the model sees it, what is known of it, and what was predicted."""

    number: int
    image: np.ndarray  # uint8 [R, R, 3]
    truth: np.ndarray | None
    predicted: np.ndarray


def colours(found: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of colours, as they are or in [-1, 1]."""
    if found.dtype == np.uint8:
        return found
    return np.rint((np.clip(found.astype(np.float64), -1, 1) + 1) * 127.5).astype(np.uint8)


def depths(found: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of depths [H, W, 1]: from black, near or not measured, to yellow, 10 metres away."""
    shares = np.clip(found[..., 0].astype(np.float64) / FARTHEST, 0, 1)
    scaled = heat(np.append(shares.ravel(), 1.0))[:-1]  # the last one, so that the largest depth is always the same
    return np.rint(scaled * 255).astype(np.uint8).reshape(*shares.shape, 3)


def segments(found: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: a hue for each category and a shade for each of its instances; black where nothing is known."""
    pairs, inverse = np.unique(found[..., :2].reshape(-1, 2), axis=0, return_inverse=True)
    golden = (np.sqrt(5) - 1) / 2  # multiples of it lie far from one another
    rows = [
        colorsys.hsv_to_rgb(category * golden % 1, 0.75, 0.6 + 0.4 * (instance * golden % 1))
        if category > 0
        else (0, 0, 0)
        for category, instance in pairs.tolist()
    ]
    return np.rint(np.array(rows) * 255).astype(np.uint8)[inverse.ravel()].reshape(*found.shape[:2], 3)


PICTURES: dict[Target, Any] = {"colorization": colours, "depth": depths, "panoptic": segments}


def picture(target: Target, found: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of a map."""
    return PICTURES[target](found)


def side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """One picture of several, the others as large as the first, with a white line between."""
    height, width = pictures[0].shape[:2]
    white = np.full((height, max(1, width // 64), 3), 255, np.uint8)
    parts = [part for one in pictures for part in (white, resize(one, height, width, "nearest"))]
    return np.concatenate(parts[1:], axis=1)


def line(target: Target, one: Shown) -> np.ndarray:
    """uint8 [H, W, 3]: an image, what is known of it, if anything, and what was predicted."""
    side = len(one.image)
    side = LEAST_PX // side * side if side < LEAST_PX else min(side, MOST_PX)
    image = resize(one.image, side, side, "nearest" if side > len(one.image) else "bilinear")
    return side_by_side(image, *(picture(target, found) for found in (one.truth, one.predicted) if found is not None))


def write_shown(folder: Path, target: Target, shown: list[Shown]) -> None:
    """`maps.png`: a line for each image."""
    from PIL import Image

    if shown:
        whole = Image.fromarray(np.concatenate([line(target, one) for one in shown]))
        write_atomically(folder / FILE, lambda file: whole.save(file, "PNG"))


def read_shown(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of `maps.png`. UserError for any other file."""
    most = MOST_SHOWN * MOST_PX, 4 * MOST_PX
    try:
        found = decode(read_regular(path))
        if any(side > limit for side, limit in zip(found.shape, most)):
            raise ValueError(f"of {found.shape[0]} x {found.shape[1]} pixels, expected at most {most[0]} x {most[1]}")
    except (BrokenImage, OSError, ValueError) as error:
        raise UserError(
            f"{path} holds no pictures of maps ({reason(error)}); remove it, or repeat the run's end."
        ) from error
    return found
