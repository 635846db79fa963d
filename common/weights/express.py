"""Express a model in a spelling that cannot hold all of it, and restore it without losing a bit.

Every change leaves the logits the same; the family's row makes it (common/models/family.py).
"""

import dataclasses
from collections.abc import Iterator

from common.models import FAMILIES, ModelConfig, family_name
from common.models.family import Arrays, parted, within
from common.system.errors import UserError, nearest
from common.weights.spellings import SPELLINGS, TABLES
from common.weights.table import Table


def cannot_hold(table: Table, config: ModelConfig) -> str | None:
    """Why a table cannot hold a model as it is, or None."""
    return next(obstacles(table, config), None)


def obstacles(table: Table, config: ModelConfig) -> Iterator[str]:
    """What of a model a table cannot hold."""
    if parts(table) != within_it(config):
        yield f"{in_words(within_it(config))} within it, only {in_words(parts(table))}"
        return
    for field, allowed in table.holds.items():
        value = getattr(config, field)
        if field == "cls_position" and not config.has_cls or field == "head_bias" and config.num_classes is None:
            continue
        if value not in allowed:
            yield f"{field} {value!r}, only {' or '.join(map(repr, allowed))}"
    for name, _, child in table.children:
        yield from (f"{name}'s {reason}" for reason in obstacles(child, config.children[name]))


def parts(table: Table) -> dict[str, type]:
    """{name: family} of the models that a table has within."""
    return {child.name: child.table.family for child in table.children}


def is_made_of(table: Table, config: ModelConfig) -> bool:
    """Whether a table has the models within one, and those within these."""
    return parts(table) == within_it(config) and all(
        is_made_of(child, config.children[name]) for name, _, child in table.children
    )


def within_it(config: ModelConfig) -> dict[str, type]:
    """{name: family} of the models within one."""
    return {name: type(child) for name, child in config.children.items()}


def in_words(parts: dict[str, type]) -> str:
    """`image (ViT) and text (BERT)`, or `nothing`."""
    return " and ".join(f"{name} ({FAMILIES[family].name})" for name, family in parts.items()) or "nothing"


def choose_table(spelling: str, config: ModelConfig) -> Table:
    """The table that writes models of a family in a spelling; UserError where there is none."""
    if spelling not in SPELLINGS:
        raise UserError(f"No spelling is called {spelling!r}{nearest(spelling, SPELLINGS)}")
    tables = [table for table in TABLES if table.spelling == spelling and table.family is type(config)]
    if not tables:
        others = ", ".join(dict.fromkeys(t.spelling for t in TABLES if t.family is type(config)))
        raise UserError(f"{spelling} has no {FAMILIES[type(config)].name}; choose one of {others}.")
    if not any(table.written for table in tables):
        raise UserError(f"Files of {spelling} are read only; choose another spelling, such as timm or big_vision.")
    fitting = [table for table in tables if is_made_of(table, config) and table.written]
    if not fitting:
        raise UserError(f"{spelling} has no {family_name(config)}; choose another spelling.")
    return min(fitting, key=lambda table: sum(1 for _ in obstacles(table, changed(config, table)[0])))


def changed(config: ModelConfig, table: Table) -> tuple[ModelConfig, list[str]]:
    """(the configuration that comes nearest in a table with the same children, what was changed)."""
    there, notes = FAMILIES[type(config)].express_config(config, table.holds)
    parts = {name: changed(config.children[name], child) for name, _, child in table.children}
    there = dataclasses.replace(there, **{name: part for name, (part, _) in parts.items()})
    return there, notes + [f"{name}: {note}" for name, (_, more) in parts.items() for note in more]


def expressed(config: ModelConfig, table: Table) -> tuple[ModelConfig, list[str]]:
    """(the configuration that a table can hold, what was changed); UserError where the model would become another."""
    there, notes = changed(config, table)
    reason = cannot_hold(table, there)
    if reason:
        raise UserError(f"{table.spelling} cannot hold this {family_name(config)} ({reason}); choose another spelling.")
    return there, notes


def express(arrays: Arrays, config: ModelConfig, there: ModelConfig) -> Arrays:
    """`arrays` of `config` as those of `there`, which `expressed` returned."""
    if config == there:
        return arrays
    own, parts = parted(arrays, config)
    arrays = {}
    for name, part in parts.items():
        arrays |= within(name, express(part, config.children[name], there.children[name]))
    return arrays | FAMILIES[type(config)].express(own, config, there)


def restore(arrays: Arrays, there: ModelConfig, config: ModelConfig) -> tuple[Arrays, ModelConfig]:
    """The inverse of `express`: (arrays, configuration), which stay those of `there` where the arrays have moved on."""
    if config == there:
        return arrays, config
    own, parts = parted(arrays, config)
    arrays, children = {}, {}
    for name, part in parts.items():
        part, children[name] = restore(part, there.children[name], config.children[name])
        arrays |= within(name, part)
    own, config = FAMILIES[type(config)].restore(own, there, config)
    return arrays | own, dataclasses.replace(config, **children)


def differing(config: ModelConfig, table: Table) -> dict[str, tuple]:
    """{field: (the model's value, what a spelling's own code computes with)} where they differ."""
    pairs = {name: (getattr(config, name), value) for name, value in table.computes.items()}
    found = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    for name, _, child in table.children:
        found |= {f"{name} {field}": pair for field, pair in differing(config.children[name], child).items()}
    return found
