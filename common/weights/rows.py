"""The rows of a spelling's table, and the arrays of a file that they stand for."""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from common.models.family import Arrays, Config
from common.weights.layouts import Shape, contiguous, layout

ZEROS = ""  # in the place of a name of ours
MAX_BLOCKS = 1000  # of a stacked file, whose number of blocks is a length that it declares
Numbers = dict[str, str]  # {"block": "3"} or {"stage": "1", "unit": "2"}: what stands for the braces of a template


class Row(NamedTuple):
    """One array of a file: its name, the canonical parameters that it holds, and how they lie in it."""

    theirs: str
    ours: tuple[str, ...]  # ZEROS where the file has zeros that are none of our parameters
    layout: str
    stacked: bool
    number: int | None  # of heads or of pixels, where the layout splits an axis into them

    def below(self, ours: str, theirs: str) -> "Row":
        """The same row in the table of a parent."""
        return self._replace(
            theirs=f"{theirs}{self.theirs}", ours=tuple(name and f"{ours}/{name}" for name in self.ours)
        )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Our parameters in it."""
        return tuple(name for name in self.ours if name != ZEROS)

    def shape(self, shapes: dict[str, Shape]) -> Shape:
        """The shape in the file, from those of our parameters."""
        one = layout(self.layout).shape_there(shapes[self.ours[0]], self.number)
        if self.stacked:
            return (len(self.ours), *one)
        return (one[0] * len(self.ours), *one[1:]) if len(self.ours) > 1 else one

    def to_there(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The array of the file, contiguous, of our parameters in it."""
        given = iter(arrays)
        arrays = [np.zeros_like(arrays[0]) if name == ZEROS else next(given) for name in self.ours]
        parts = [layout(self.layout).to_there(array, self.number) for array in arrays]
        if len(parts) == 1 and not self.stacked:
            return contiguous(parts[0])
        joined = np.empty((len(parts), *parts[0].shape), parts[0].dtype)  # in C order, unlike what concatenate returns
        for part, place in zip(parts, joined):
            contiguous(part, place)
        return joined if self.stacked else joined.reshape(-1, *parts[0].shape[1:])

    def to_here(self, array: np.ndarray, shapes: dict[str, Shape]) -> Arrays:
        """Our parameters, contiguous."""
        parts = array if self.stacked else np.split(array, len(self.ours)) if len(self.ours) > 1 else [array]
        named = [(name, part) for name, part in zip(self.ours, parts, strict=True) if name != ZEROS]
        return {name: contiguous(layout(self.layout).to_here(part).reshape(shapes[name])) for name, part in named}


class Template:
    """A row of a table, such as `("blocks/{block}/norm1/scale", "blocks.{block}.norm1.weight")`: see table.py."""

    def __init__(self, ours: str | tuple[str, ...], theirs: str, how: str = ""):
        self.ours, self.theirs, self.how = (ours,) if isinstance(ours, str) else ours, theirs, how
        self.stacked = "{block}" in self.ours[0] and "{block}" not in theirs

    def rows(self, config: Config, first_unit: int) -> Iterator[Row]:
        """The rows of a model of `config`, whether it has such parameters or not."""
        number = config.num_heads if "N" in self.how else config.num_pixels if "P" in self.how else None
        for theirs, numbers in self._numbered(config, first_unit):
            names = [name.format(**each) for name in self.ours for each in numbers]
            yield Row(self.theirs.format(**theirs), tuple(names), self.how, self.stacked, number)

    def _numbered(self, config: Config, first_unit: int) -> Iterator[tuple[dict, list[dict]]]:
        """(numbers of an array's name, those of our names that it holds)."""
        if self.stacked:
            yield {}, [{"block": i} for i in range(config.depth)]
        elif "{block}" in self.ours[0]:
            yield from (({"block": i}, [{"block": i}]) for i in range(config.depth))
        elif "{cell}" in self.ours[0]:
            units = ((stage, unit) for stage, count in enumerate(config.num_units) for unit in range(count))
            for cell, (stage, unit) in enumerate(units):
                numbers = {"stage": first_unit + stage, "unit": first_unit + unit, "cell": cell}
                yield numbers, [numbers]
        else:
            yield {}, [{}]

    def names(self, shape: Shape, numbers: dict[str, Any]) -> list[str]:
        """Our names in an array of `shape` with these numbers in its name."""
        blocks = range(shape[0]) if self.stacked else [numbers.get("block")]
        return [name.format(**numbers | {"block": block}) for name in self.ours if name != ZEROS for block in blocks]

    def shape_here(self, shape: Shape) -> tuple[Shape, dict[str, int]]:
        """(the shape of each of our parameters, {letter of the layout: length}) of an array of `shape`.

        ValueError or TypeError for a shape that cannot be.
        """
        if self.stacked:
            if shape[0] > MAX_BLOCKS:
                raise ValueError(f"{shape[0]} blocks")
            shape = shape[1:]
        elif len(self.ours) > 1:
            if shape[0] % len(self.ours):
                raise ValueError(f"{shape} does not divide by {len(self.ours)}")
            shape = (shape[0] // len(self.ours), *shape[1:])
        elif not self.how and len(shape) == 4 and shape[:3] == (1, 1, 1):
            shape = shape[3:]  # how the norms of some hybrids are stored
        form = layout(self.how)
        return form.shape_here(shape), form.sizes(shape) if self.how else {}

    @functools.cached_property
    def _parts(self) -> list[str]:
        return re.split(r"\{(\w+)(?::02d)?\}", self.theirs)  # every second one is the name of a number

    @property
    def form(self) -> str:
        """The name there with every number as 0."""
        return without_numbers("".join("0" if i % 2 else part for i, part in enumerate(self._parts)))

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """What matches the name there, and its numbers."""
        parts = (f"(?P<{part}>[0-9]{{1,4}})" if i % 2 else re.escape(part) for i, part in enumerate(self._parts))
        return re.compile("".join(parts))


def without_numbers(name: str) -> str:
    """A name with every number as 0."""
    return re.sub(r"\d+", "0", name)


def slashed(ours: str, theirs: str, rows: tuple, joint: str = "/") -> tuple:
    """Rows of a part of a model, whose names there are joined by slashes."""

    def within(names):
        return f"{ours}/{names}" if isinstance(names, str) else tuple(name and f"{ours}/{name}" for name in names)

    return tuple((within(row[0]), f"{theirs}{joint}{row[1]}", *row[2:]) for row in rows)


def dotted(ours: str, theirs: str, rows: tuple) -> tuple:
    """Rows of a part of a model, whose names there are joined by points."""
    return slashed(ours, theirs, rows, ".")
