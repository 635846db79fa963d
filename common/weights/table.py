"""A spelling of a family as one table, from which names, shapes and arrays follow in both directions.

A row is (ours, theirs, layout). In the names, `{block}` counts the blocks of a transformer or Mixer, `{cell}` ours of a
ResNet and `{stage}`, `{unit}` theirs. Several of our parameters in one row are one array there, joined along its first
axis, with zeros where a name is empty; a row whose `{block}` stands in our name only holds the parameters of all blocks, stacked along a new first axis.

Tables compose: `prefixed(table, "backbone", "patch_embed.backbone.")` is the table of a child (common/models/family.py),
whose names stand below those prefixes here and there; it counts the child's blocks, not its parent's.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from common.models.cards import Card
from common.models.family import Arrays, Config
from common.weights.layouts import Shape
from common.weights.rows import Numbers, Row, Template, without_numbers

WRAPPED = re.compile(
    r"^((module|_orig_mod|model)\.)+"
)  # what DataParallel, torch.compile and trainers put before names


def canonical_shapes(config: Config, channels: int) -> dict[str, Shape]:
    """{name: shape} of a model whose stem takes images of so many channels."""
    shapes = config.parameter_shapes()
    if config.image_kernel is None:
        return shapes
    *size, _, width = shapes[config.image_kernel]
    return shapes | {config.image_kernel: (*size, channels, width)}


class AtLeast:
    """The numbers that a table holds in a field: all from a least one."""

    def __init__(self, least: int):
        self.least = least

    def __contains__(self, value: int) -> bool:
        return value >= self.least

    def __iter__(self) -> Iterator[Self]:
        yield self

    def __repr__(self) -> str:
        return f"at least {self.least}"


class Match(NamedTuple):
    """The parameters of a file in a spelling, from its names and shapes."""

    shapes: dict[str, Shape]  # of our parameters, without the children's
    num_heads: int | None  # where it follows from the shapes
    unknown: list[str]
    children: "dict[str, Match]"


class Child(NamedTuple):
    """The table of a model within another."""

    name: str  # the child's, with us
    theirs: str  # what stands before its names in a file
    table: "Table"


def prefixed(table: "Table", ours: str, theirs: str) -> Child:
    """`table` for the child called `ours`, whose names in a file begin with `theirs`."""
    return Child(ours, theirs, table)


class Table:
    """One spelling of one family.

    `children` are tables of the models within (`prefixed`); a table is for models with exactly these. `holds` maps fields
    of the configuration to the values that the spelling can express (others are adapted where the model stays the same,
    or refused); `computes` to the values that its own code computes with by default; `aliases` are
    (pattern, replacement) of older names; `ignored` matches what is no parameter; `added` are (name, other name) of arrays
    of older files that are added to another; `prepares` returns of a configuration (card, note): the preparation of its
    models' images where no file states it; `twin` is another model of the same names and shapes, in words; not
    `written` are files that are read only.
    """

    def __init__(
        self, spelling: str, family: type[Config], rows: tuple, *, children: tuple[Child, ...] = (), first_unit: int = 1,
        holds: dict[str, tuple] | None = None, computes: dict[str, Any] | None = None, aliases: tuple = (),
        ignored: str | None = None, added: tuple[tuple[str, str], ...] = (), prepares: Callable[[Config], tuple[Card, str]] | None = None,
        twin: str | None = None, written: bool = True,
    ):  # fmt: skip
        self.spelling, self.family, self.children, self.first_unit = spelling, family, children, first_unit
        self.templates = [Template(*row) for row in rows]
        self.holds, self.computes, self.prepares, self._added = holds or {}, computes or {}, prepares, dict(added)
        self.aliases = [(re.compile(pattern), there) for pattern, there in aliases]
        self.written = written
        self.ignored, self.twin = re.compile(ignored) if ignored else None, twin

    def rows(self, config: Config) -> list[Row]:
        """Every array of a file with a model of `config`; each parameter stands in exactly one."""
        shapes = config.own_shapes()
        rows = [row for template in self.templates for row in template.rows(config, self.first_unit)]
        rows = [row for row in rows if row.ours[0] in shapes]
        for name, theirs, table in self.children:
            rows += [row.below(name, theirs) for row in table.rows(config.children[name])]
        return rows

    def published_shapes(self, config: Config, channels: int = 3) -> dict[str, Shape]:
        """{name: shape} of a file with a model of `config`, for images of so many channels."""
        shapes = canonical_shapes(config, channels)
        return {row.theirs: row.shape(shapes) for row in self.rows(config)}

    def to_published(self, arrays: Arrays, config: Config) -> Arrays:
        """The arrays of a file; `arrays` is emptied on the way, so that both take the memory of one."""
        return {row.theirs: row.to_there([arrays.pop(name) for name in row.parameters]) for row in self.rows(config)}

    def from_published(self, published: Arrays, config: Config, channels: int = 3) -> Arrays:
        """The inverse of `to_published`, which empties `published`; canonical order."""
        shapes, arrays = canonical_shapes(config, channels), {}
        for row in self.rows(config):
            array = published.pop(row.theirs).reshape(row.shape(shapes))  # norms may be stored as [1, 1, 1, C]
            arrays |= row.to_here(array, shapes)
        return {name: arrays[name] for name in shapes}

    def rename(self, name: str) -> str | None:
        """The name of today for that of an array in a file; None for what is no parameter."""
        return self._rename(WRAPPED.sub("", name))

    def _rename(self, name: str) -> str | None:
        for pattern, there in self.aliases:
            name = pattern.sub(there, name)
        if self.ignored and self.ignored.search(name):
            return None
        for child in self.children:
            if child.theirs and name.startswith(child.theirs):
                today = child.table._rename(name.removeprefix(child.theirs))
                return None if today is None else f"{child.theirs}{today}"
        return name

    @property
    def added(self) -> dict[str, str]:
        """{name: the name of the array that it is added to} of arrays in older files."""
        found = dict(self._added)
        for child in self.children:
            found |= {f"{child.theirs}{name}": f"{child.theirs}{into}" for name, into in child.table.added.items()}
        return found

    def knows(self, name: str) -> bool:
        """Whether a name is one of the spelling."""
        return self._hit(name) is not None or self._child(name) is not None

    def may_hold(self, name: str) -> bool:
        """Whether an array of this name may be in a file of the spelling: one of its names, of today or older, or no parameter."""
        today = self.rename(name)
        return today is None or self.knows(today) or today in self.added

    def _child(self, name: str) -> Child | None:
        knowing = (c for c in self.children if name.startswith(c.theirs) and c.table.knows(name.removeprefix(c.theirs)))
        return next(knowing, None)

    def match(self, shapes: dict[str, Shape]) -> Match:
        """Match a file with (renamed) arrays of these names and shapes."""
        own, parts, unknown = {}, {child.name: {} for child in self.children}, set()
        for name, shape in shapes.items():
            if hit := self._hit(name):
                own[name] = shape, *hit
            elif child := self._child(name):
                parts[child.name][name.removeprefix(child.theirs)] = shape
            else:
                unknown.add(name)
        found, heads, unfit = self._match_own(own)
        children = {child.name: child.table.match(parts[child.name]) for child in self.children}
        unknown |= {*unfit, *(c.theirs + name for c in self.children for name in children[c.name].unknown)}
        return Match(found, heads, [name for name in shapes if name in unknown], children)

    @staticmethod
    def _match_own(hits: dict[str, tuple]) -> tuple[dict[str, Shape], int | None, list[str]]:
        """(shapes of our parameters, number of heads, names of another shape than such arrays have)."""
        units = {(int(numbers["stage"]), int(numbers["unit"])) for *_, numbers in hits.values() if "stage" in numbers}
        cells = {unit: cell for cell, unit in enumerate(sorted(units))}
        found, heads, unfit = {}, None, []
        for name, (shape, template, numbers) in hits.items():
            try:
                here, sizes = template.shape_here(shape)
            except (TypeError, ValueError, IndexError):
                unfit.append(name)
                continue
            heads = sizes.get("N", heads)
            if "stage" in numbers:
                numbers = {"cell": cells[int(numbers["stage"]), int(numbers["unit"])]}
            found |= dict.fromkeys(template.names(shape, numbers), here)
        return found, heads, unfit

    def _hit(self, name: str) -> tuple[Template, Numbers] | None:
        for template in self._by_form.get(without_numbers(name), ()):
            if found := template.pattern.fullmatch(name):
                return template, found.groupdict()
        return None

    @functools.cached_property
    def _by_form(self) -> dict[str, list[Template]]:
        """{name with every number as 0: its possible templates}."""
        forms = {}
        for template in self.templates:
            forms.setdefault(template.form, []).append(template)
        return forms
