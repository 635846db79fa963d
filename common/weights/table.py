"""A spelling of a family as one table, from which names, shapes and arrays follow in both directions.

A row is (ours, theirs, layout). In the names, `{block}` counts the blocks of a transformer or Mixer, `{cell}` ours of a
ResNet and `{stage}`, `{unit}` theirs. Several of our parameters in one row are one array there, joined along its first
axis; a row whose `{block}` stands in our name only holds the parameters of all blocks, stacked along a new first axis.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from common.models import ModelConfig
from common.models.cards import Card
from common.weights.layouts import Shape, contiguous, layout

STEMS = ("backbone/stem/conv/kernel", "stem/conv/kernel", "stem/kernel")  # the first of these takes the images
WRAPPED = (r"^((module|_orig_mod|model)\.)+", "")  # what DataParallel, torch.compile and trainers put before names
MAX_BLOCKS = 1000  # of a stacked file, whose number of blocks is a length that it declares
Arrays = dict[str, np.ndarray]


class Row(NamedTuple):
    """One array of a file: its name, the canonical parameters that it holds, and how they lie in it."""

    theirs: str
    ours: tuple[str, ...]
    layout: str
    stacked: bool

    def shape(self, shapes: dict[str, Shape], num_heads: int | None) -> Shape:
        """The shape in the file, from those of our parameters."""
        first, *rest = layout(self.layout).shape_there(shapes[self.ours[0]], num_heads)
        if self.stacked:
            return (len(self.ours), first, *rest)
        return (first * len(self.ours), *rest)

    def to_there(self, arrays: list[np.ndarray], num_heads: int | None) -> np.ndarray:
        """The array of the file, contiguous."""
        parts = [layout(self.layout).to_there(array, num_heads) for array in arrays]
        if len(parts) == 1 and not self.stacked:
            return contiguous(parts[0])
        joined = np.empty((len(parts), *parts[0].shape), parts[0].dtype)  # in C order, unlike what concatenate returns
        for part, place in zip(parts, joined):
            contiguous(part, place)
        return joined if self.stacked else joined.reshape(-1, *parts[0].shape[1:])

    def to_here(self, array: np.ndarray, shapes: dict[str, Shape]) -> Arrays:
        """Our parameters, contiguous."""
        parts = array if self.stacked else np.split(array, len(self.ours))
        here = [layout(self.layout).to_here(part).reshape(shapes[name]) for name, part in zip(self.ours, parts)]
        return {name: contiguous(part) for name, part in zip(self.ours, here)}


def canonical_shapes(config: ModelConfig, channels: int) -> dict[str, Shape]:
    """{name: shape} of a model whose stem takes images of so many channels."""
    shapes = config.parameter_shapes()
    stem = next(name for name in STEMS if name in shapes)
    return shapes | {stem: (*shapes[stem][:-2], channels, shapes[stem][-1])}


class Match(NamedTuple):
    """What the names and shapes of a file are in a spelling."""

    shapes: dict[str, Shape]  # of our parameters
    num_heads: int | None  # where the shapes tell
    unknown: list[str]


class Table:
    """One spelling of one family.

    `holds` maps fields of the configuration to the values that the spelling can express (others are adapted where the
    model stays the same, or refused); `computes` to the values that its own code computes with where no file says
    otherwise; `aliases` are (pattern, replacement) of older names; `ignored` matches what is no parameter; `prepares`
    tells of a configuration (card, note): how its models want images where no file says it.
    """

    def __init__(
        self, spelling: str, family: type, rows: tuple, *, first_unit: int = 1, holds: dict[str, tuple] | None = None,
        computes: dict[str, Any] | None = None, aliases: tuple = (), ignored: str | None = None,
        prepares: Callable[[ModelConfig], tuple[Card, str]] | None = None,
    ):  # fmt: skip
        self.spelling, self.family, self.first_unit = spelling, family, first_unit
        self.templates = [((row[0],) if isinstance(row[0], str) else row[0], *row[1:], "")[:3] for row in rows]
        self.holds, self.computes, self.prepares = holds or {}, computes or {}, prepares
        self.aliases = [(re.compile(pattern), there) for pattern, there in (WRAPPED, *aliases)]
        self.ignored = re.compile(ignored) if ignored else None

    def rows(self, config: ModelConfig) -> list[Row]:
        """Every array of a file with a model of `config`; each parameter stands in exactly one."""
        shapes = config.parameter_shapes()
        rows = [row for template in self.templates for row in self._expand(template, config)]
        return [row for row in rows if row.ours[0] in shapes]

    def _expand(self, template: tuple, config: ModelConfig) -> Iterator[Row]:
        ours, theirs, how = template
        if "{block}" in ours[0] and "{block}" not in theirs:
            yield Row(theirs, tuple(ours[0].format(block=i) for i in range(config.depth)), how, stacked=True)
        elif "{block}" in ours[0]:
            for i in range(config.depth):
                yield Row(theirs.format(block=i), tuple(name.format(block=i) for name in ours), how, stacked=False)
        elif "{cell}" in ours[0]:
            for cell, (stage, unit) in enumerate(self._units(config)):
                names = tuple(name.format(cell=cell) for name in ours)
                yield Row(theirs.format(stage=stage, unit=unit, cell=cell), names, how, stacked=False)
        else:
            yield Row(theirs, ours, how, stacked=False)

    def _units(self, config: ModelConfig) -> list[tuple[int, int]]:
        resnet = getattr(config, "backbone", config)
        counts = resnet.num_units if resnet else ()
        first = self.first_unit
        return [(first + stage, first + unit) for stage, count in enumerate(counts) for unit in range(count)]

    def published_shapes(self, config: ModelConfig, channels: int = 3) -> dict[str, Shape]:
        """{name: shape} of a file with a model of `config`, for images of so many channels."""
        shapes, heads = canonical_shapes(config, channels), getattr(config, "num_heads", None)
        return {row.theirs: row.shape(shapes, heads) for row in self.rows(config)}

    def to_published(self, arrays: Arrays, config: ModelConfig) -> Arrays:
        """The arrays of a file; `arrays` is emptied on the way, so that both take the memory of one."""
        heads = getattr(config, "num_heads", None)
        return {row.theirs: row.to_there([arrays.pop(name) for name in row.ours], heads) for row in self.rows(config)}

    def from_published(self, published: Arrays, config: ModelConfig, channels: int = 3) -> Arrays:
        """The inverse of `to_published`, which empties `published`; canonical order."""
        shapes, arrays = canonical_shapes(config, channels), {}
        expected = self.published_shapes(config, channels)
        for row in self.rows(config):
            array = published.pop(row.theirs).reshape(expected[row.theirs])  # norms may be stored as [1, 1, 1, C]
            arrays |= row.to_here(array, shapes)
        return {name: arrays[name] for name in shapes}

    def rename(self, name: str) -> str | None:
        """The name of today for that of an array in a file; None for what is no parameter."""
        for pattern, there in self.aliases:
            name = pattern.sub(there, name)
        return None if self.ignored and self.ignored.search(name) else name

    def knows(self, name: str) -> bool:
        """Whether a name is one of the spelling."""
        return self._hit(name) is not None

    def match(self, shapes: dict[str, Shape]) -> Match:
        """What a file is that holds (renamed) arrays of these names and shapes."""
        hits = {name: self._hit(name) for name in shapes}
        units = {(int(hit[1]["stage"]), int(hit[1]["unit"])) for hit in hits.values() if hit and "stage" in hit[1]}
        cells = {unit: cell for cell, unit in enumerate(sorted(units))}
        found, heads, unknown = {}, None, []
        for name, shape in shapes.items():
            try:
                (ours, _, how), numbers = hits[name] or (None, None)
                here, sizes = self._shape_here(how, shape, len(ours), stacked=self._is_stacked(hits[name][0]))
            except (TypeError, ValueError):
                unknown.append(name)
                continue
            heads = sizes.get("N", heads)
            if "stage" in numbers:
                numbers = {"cell": cells[int(numbers["stage"]), int(numbers["unit"])]}
            blocks = range(shape[0]) if self._is_stacked(hits[name][0]) else [numbers.get("block")]
            found |= {our.format(**numbers | {"block": block}): here for our in ours for block in blocks}
        return Match(found, heads, unknown)

    @staticmethod
    def _is_stacked(template: tuple) -> bool:
        return "{block}" in template[0][0] and "{block}" not in template[1]

    @staticmethod
    def _shape_here(how: str, shape: Shape, count: int, *, stacked: bool) -> tuple[Shape, dict[str, int]]:
        if stacked:
            if shape[0] > MAX_BLOCKS:
                raise ValueError(f"{shape[0]} blocks")
            shape = shape[1:]
        elif count > 1:
            if shape[0] % count:
                raise ValueError(f"{shape} does not divide by {count}")
            shape = (shape[0] // count, *shape[1:])
        elif not how and len(shape) == 4 and shape[:3] == (1, 1, 1):
            shape = shape[3:]  # how the norms of some hybrids are stored
        form = layout(how)
        return form.shape_here(shape), form.sizes(shape) if how else {}

    def _hit(self, name: str) -> tuple[tuple, dict[str, str]] | None:
        for regex, template in self._by_form.get(re.sub(r"\d+", "0", name), ()):
            if found := regex.fullmatch(name):
                return template, found.groupdict()
        return None

    @functools.cached_property
    def _by_form(self) -> dict[str, list]:
        """{name with every number as 0: its possible templates}."""
        forms = {}
        for template in self.templates:
            parts = re.split(r"\{(\w+)(?::02d)?\}", template[1])
            regex = "".join(f"(?P<{part}>[0-9]{{1,4}})" if i % 2 else re.escape(part) for i, part in enumerate(parts))
            form = re.sub(r"\d+", "0", "".join("0" if i % 2 else part for i, part in enumerate(parts)))
            forms.setdefault(form, []).append((re.compile(regex), template))
        return forms
