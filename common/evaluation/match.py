"""Match the classes of a dataset with those of a model, by name."""

import collections
from collections.abc import Sequence

import numpy as np

from common.system.errors import UserError, nearest


def match_classes(dataset: str, class_names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """int32 [K]: which of the classes called `known` each class of the dataset is.

    One of ImageNet has several names, "tench, Tinca tinca", and any will do, as will underscores for blanks. UserError
    for a name that none has, or several.
    """
    numbers = collections.defaultdict(list)
    for number, names in enumerate(known):
        for name in {plain(names), *map(plain, names.split(", "))}:
            numbers[name].append(number)
    for name in class_names:
        found = numbers.get(plain(name), [])
        if len(found) > 1:
            raise UserError(
                f"The weights know several classes called {name!r}, a class of {dataset}: "
                f"{'; '.join(known[number] for number in found)}; give its folder one of these names in full."
            )
        if not found:
            raise UserError(
                f"The weights know {len(known)} classes and {dataset} has {len(class_names)}, among them {name!r}, which they "
                f"do not know{nearest(plain(name), numbers)} Evaluate weights that were trained on this dataset."
            )
    return np.array([numbers[plain(name)][0] for name in class_names], np.int32)


def plain(name: str) -> str:
    """A class's name without the differences of spelling between files and folders."""
    return name.replace("_", " ").strip().lower()
