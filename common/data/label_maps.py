"""Maps: what is known of every pixel of an image, and how files hold it."""

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.data.images import BrokenImage, check_size
from common.system.errors import UserError, printable, reason
from common.system.files import read_regular

MILLIMETRES = 1000.0  # of depth in PNG files: in one metre
FARTHEST = 1e6  # metres; what is beyond is no depth


@dataclasses.dataclass(frozen=True)
class Category:
    """What pixels may belong to: countable things, such as cars, or stuff, such as grass."""

    number: int  # in files
    name: str
    is_thing: bool


@dataclasses.dataclass(frozen=True)
class Maps:
    """What is known of every pixel of images.

    `depth`: float32 [H, W, 1], metres, 0 where nothing was measured. `panoptic`: int32 [H, W, 3]: a category from 1 on, its
    place in `categories`, or 0 where nothing is known; an instance from 1 on; 1 where it is a crowd, whose members are not
    told apart.
    """

    kind: Literal["depth", "panoptic"]
    read: Callable[[int], np.ndarray]  # example -> its map, as large as its image; raises BrokenImage or OSError
    categories: tuple[Category, ...] = ()  # of panoptic
    path: Callable[[int], str] | None = None  # example -> the file of its map; None: that of its image

    def take(self, examples: np.ndarray) -> "Maps":
        """Those of these examples, in this order."""
        own = {"read": self.read} | ({"path": self.path} if self.path else {})
        own = {name: lambda i, of=of: of(int(examples[i])) for name, of in own.items()}
        return dataclasses.replace(self, **own)


def fitting(found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of an image of this height and width. Raises BrokenImage for one of another size."""
    if found.shape[:2] != size:
        raise BrokenImage(f"has {size[0]} x {size[1]} pixels and its map {found.shape[0]} x {found.shape[1]}")
    return found


def load(path: str, channels: int) -> np.ndarray:
    """The numbers of a .npy or .png file, [H, W] or [H, W, C] as they are. Raises BrokenImage for anything else."""
    try:
        encoded = read_regular(path)
        found = np.load(io.BytesIO(encoded), allow_pickle=False) if path.lower().endswith(".npy") else pixels(encoded)
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        raise BrokenImage(f"has a map that cannot be read, {printable(path)} ({reason(error)})") from error
    if found.ndim == 2:
        found = found[..., None]
    if found.ndim != 3 or found.dtype.kind not in "uif" or found.shape[2] < channels:
        raise BrokenImage(
            f"has the map {printable(path)} of {found.dtype} {list(found.shape)}, expected numbers [height, width, {channels}]"
        )
    return found


def pixels(encoded: bytes) -> np.ndarray:
    """The numbers of an image file: of 8 bits [H, W, 3], or grey ones of 8 or 16 bits [H, W]."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
        check_size(image.height, image.width)
        return np.asarray(image.convert("RGB") if image.mode in ("RGBA", "P") else image)


def depth(path: str) -> np.ndarray:
    """float32 [H, W, 1]: metres of a .npy file, or of a grey .png whose numbers are millimetres. Raises BrokenImage."""
    found = load(path, 1)
    if found.shape[2] != 1:
        raise BrokenImage(f"has the depth {printable(path)} of {found.shape[2]} channels, expected one")
    return metres(found / MILLIMETRES if found.dtype.kind in "ui" else found, path)


def metres(found: np.ndarray, where: str) -> np.ndarray:
    """float32 of depths; what is not finite was not measured. Raises BrokenImage for numbers that no depth is."""
    found = np.where(np.isfinite(found), found, 0)
    if found.size and not (found.min() >= 0 and found.max() <= FARTHEST):
        raise BrokenImage(
            f"has the depth {printable(where)} from {found.min():g} to {found.max():g} metres, expected none below 0"
        )
    return found.astype(np.float32)


def two_channels(path: str, categories: Sequence[Category]) -> np.ndarray:
    """int32 [H, W, 3]: the category and the instance that a .png or .npy file has in its first two channels.

    It is the format of two channels of COCO's panopticapi. A category without instances, as stuff is, has instance 0 there.
    """
    found = load(path, 2)
    return numbered(found[..., 0].astype(np.int64), found[..., 1].astype(np.int64), categories, path)


def numbered(category: np.ndarray, instance: np.ndarray, categories: Sequence[Category], where: str) -> np.ndarray:
    """A panoptic map of the numbers [H, W] in a file, 0 where nothing is known. Raises BrokenImage for unknown categories."""
    places = {0: 0} | {one.number: place for place, one in enumerate(categories, 1)}
    known, inverse = np.unique(category, return_inverse=True)
    unknown = [int(number) for number in known if number not in places]
    if unknown:
        raise BrokenImage(
            f"has the category {unknown[0]} in its map {printable(where)}, which is not among the categories"
        )
    place = np.array([places[int(number)] for number in known], np.int64)[inverse].reshape(category.shape)
    pairs, inverse = np.unique(np.stack([place, instance], -1).reshape(-1, 2), axis=0, return_inverse=True)
    numbers = np.cumsum(pairs[:, 0] > 0) * (pairs[:, 0] > 0)
    instances = numbers[inverse].reshape(category.shape)
    return np.stack([place, instances, np.zeros_like(place)], -1).astype(np.int32)


def segments(
    ids: np.ndarray, known: Sequence[dict[str, Any]], categories: Sequence[Category], where: str
) -> np.ndarray:
    """int32 [H, W, 3]: the panoptic map of an image's segment ids [H, W, 3], as COCO writes them into colours.

    An id is R + 256 G + 256^2 B; `known` are the segments of the annotations. Pixels of others are not known. Raises
    BrokenImage.
    """
    numbers = ids[..., 0].astype(np.int64) + 256 * ids[..., 1].astype(np.int64) + 65536 * ids[..., 2].astype(np.int64)
    places = {one.number: place for place, one in enumerate(categories, 1)}
    found, inverse = np.unique(numbers, return_inverse=True)
    rows = np.zeros((len(found), 3), np.int32)
    try:
        for instance, segment in enumerate(known, 1):
            rows[found == segment["id"]] = places[segment["category_id"]], instance, segment.get("iscrowd", 0)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenImage(
            f"has a segment that its annotations do not describe, in {printable(where)} ({error})"
        ) from error
    return rows[inverse].reshape(*numbers.shape, 3)


def read_categories(path: Path, listed: Any = None) -> tuple[Category, ...]:
    """COCO's list of categories, `[{"id": 1, "name": "person", "isthing": 1}, ...]`. UserError for anything else."""
    try:
        listed = json.loads(read_regular(path)) if listed is None else listed
        found = tuple(Category(int(one["id"]), str(one["name"]), bool(one["isthing"])) for one in listed)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f'{path} lists no categories as COCO does, {{"id": 1, "name": "person", "isthing": 1}} ({printable(reason(error))}); '
            "mend it."
        ) from error
    numbers = [one.number for one in found]
    if not found or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise UserError(f"{path} lists no categories, or one twice, or one below 1; mend it.")
    return found
