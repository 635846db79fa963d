"""ImageNet-ReaL: reassessed labels of ImageNet's validation images, any number for each.

Source: "Are we done with ImageNet?" (https://arxiv.org/abs/2006.07159), `real.json` of
google-research/reassessed-imagenet: a list whose entry i holds the classes of ILSVRC2012_val_{i + 1:08d}.JPEG. An image
counts as right where the prediction is one of them, and one without any is left out.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.data.split import MultiLabels, Split
from common.system.errors import UserError
from common.system.files import read_regular

FILE = "real.json"
NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


def relabelled(val: Split, path: Path, num_classes: int) -> Split:
    """The images of `val`, in its order, with the labels in `path`.

    Raises UserError where that is no list of lists of classes, or one of other images.
    """
    labels, numbers = read_labels(path, num_classes), [image_number(val.describe(i), path) for i in range(len(val))]
    if sorted(numbers) != list(range(1, len(labels) + 1)):
        there = set(numbers)
        missing = next((n for n in range(1, len(labels) + 1) if n not in there), len(labels) + 1)
        raise UserError(
            f"{path} lists the classes of {len(labels):,} images and there are {len(numbers):,} validation images, "
            f"which do not match from number {missing:,} on; bring both into agreement, or remove {path.name}."
        )
    own = [labels[number - 1] for number in numbers]
    classes = np.array([label for each in own for label in each], np.int32)
    first = np.cumsum([0, *map(len, own)], dtype=np.int64)
    return dataclasses.replace(val, labels=MultiLabels(classes, first, num_classes))


def read_labels(path: Path, num_classes: int) -> list[list[int]]:
    """The classes of every image. UserError for anything else."""
    try:
        labels = json.loads(read_regular(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again, or remove it.") from error
    is_list = isinstance(labels, list) and bool(labels)
    wrong = next((i for i, own in enumerate(labels) if not is_classes(own, num_classes)), None) if is_list else 0
    if wrong is not None:
        raise UserError(
            f"Entry {wrong} of {path} is no list of classes from 0 to {num_classes - 1}; expected one list for each "
            "validation image, as in google-research/reassessed-imagenet."
        )
    return labels


def is_classes(own: Any, num_classes: int) -> bool:
    """Whether an entry is a list of classes."""
    return isinstance(own, list) and all(type(label) is int and 0 <= label < num_classes for label in own)


def image_number(image: str, path: Path) -> int:
    """The number in a file's name, by which the labels are ordered. UserError where it has none."""
    found = NAME.fullmatch(Path(image).name)
    if not found:
        raise UserError(
            f"{path} lists labels by the numbers of ILSVRC2012_val_00000001.JPEG and following, and {image} has none; "
            f"restore the name, or remove {path.name}."
        )
    return int(found[1])
