"""`pairs.json`: the texts of the held-out split for which a model found another image than theirs, the surest first."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.system.errors import UserError
from common.system.files import write_json
from common.weights.containers import read_json

PAIRS = "pairs.json"
MOST = 100  # pairs that are kept


@dataclasses.dataclass(frozen=True)
class Pair:
    """A text and the image that was most similar to it, which is not its own."""

    text: str
    own: int  # the number of its image
    found: int  # that of the image that was found
    similarity: float  # of the image that was found, -1 to 1
    own_similarity: float
    place: int  # how many images were more similar than its own


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Those of one split."""

    split: str
    num_images: int
    num_texts: int
    num_wrong: int  # texts for which another image was found
    pairs: tuple[Pair, ...]


def write_pairs(path: Path, found: Pairs) -> None:
    """Write pairs atomically. Raises UserError where they cannot be written."""
    write_json(path, dataclasses.asdict(found))


def read_pairs(path: Path) -> Pairs:
    """Read what `write_pairs` wrote. UserError for any other file."""
    try:
        record = read_json(path)
        pairs = tuple(checked(Pair, row) for row in record.pop("pairs"))
        found = checked(Pairs, record | {"pairs": pairs})
        if len(pairs) > MOST or any(max(pair.own, pair.found) >= found.num_images for pair in pairs):
            raise ValueError(f"{len(pairs)} pairs of {found.num_images} images")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} holds no pairs of texts and images ({error}); remove it, or repeat the run's end."
        ) from error
    return found


def checked(kind: type, values: dict[str, Any]) -> Any:
    """An object of `kind`. Raises ValueError for a value of another type, a count below 0 or a number that is not finite."""
    for field in dataclasses.fields(kind):
        value = values[field.name]
        wanted = {float: (int, float), int: int, str: str}.get(field.type, object)
        if (
            not isinstance(value, wanted)
            or isinstance(value, bool)
            or (field.type is int and value < 0)
            or (field.type is float and not math.isfinite(value))
        ):
            raise ValueError(f"{field.name} is {value!r}")
    return kind(**values)


def surest(similarity: np.ndarray, wrong: np.ndarray) -> Sequence[int]:
    """The numbers of at most MOST texts [M] that are `wrong`, the most similar first; of equals the first."""
    chosen = np.flatnonzero(wrong)
    return chosen[np.argsort(-similarity[chosen], kind="stable")][:MOST].tolist()
