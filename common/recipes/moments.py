"""What an optimizer keeps of each parameter, in which shapes: the same in all engines and in checkpoints."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
LEAST = 32  # entries of the two longest axes of a parameter whose second moment Adafactor keeps as means


class Means(NamedTuple):
    """How Adafactor keeps the second moment of a parameter: as means over its longest and its second longest axis.

    Source: `scale_by_factored_rms` of optax, as `optax.py` of google-research/big_vision calls it.
    """

    shape: Shape  # of the parameter, heads on an axis of their own
    longest: int  # axis; of equally long ones the last
    second: int  # axis

    @property
    def shapes(self) -> dict[str, Shape]:
        """{`rows`, the mean over the longest axis, and `columns`, over the second longest: shape}."""
        without = lambda axis: self.shape[:axis] + self.shape[axis + 1 :]
        return {"rows": without(self.longest), "columns": without(self.second)}

    @property
    def second_of_rows(self) -> int:
        """The second longest axis, where the longest is gone."""
        return self.second - (self.second > self.longest)


def means(shape: Shape) -> Means | None:
    """How the second moment of a parameter of `shape` is kept; None: whole."""
    order = np.argsort(shape, kind="stable").tolist()
    return Means(shape, order[-1], order[-2]) if len(shape) > 1 and shape[order[-2]] >= LEAST else None


def state_shapes(
    optimizer: str, average: bool, names: Iterable[str], shapes: dict[str, Shape], by_head: dict[str, Shape]
) -> dict[str, Shape]:
    """{part of the state/canonical name: shape} for the trained parameters `names`.

    `first` is the first moment, `second` the second one, of which Adafactor keeps `rows` and `columns` where it can,
    `average` the moving average of the parameters.
    """
    found = {}
    for name in names:
        kept = means(by_head[name]) if optimizer == "adafactor" else None
        parts = {"first": shapes[name]} | ({"average": shapes[name]} if average else {})
        parts |= kept.shapes if kept else {"second": shapes[name]} if optimizer != "sgd" else {}
        found |= {f"{part}/{name}": shape for part, shape in parts.items()}
    return found
