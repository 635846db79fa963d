"""Recognise a file by the names and shapes in it: family, configuration and spelling."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from common.models import FAMILIES, ModelConfig, family_name
from common.models.family import Seen, Undecided
from common.system.errors import UserError
from common.weights import foreign
from common.weights.express import cannot_hold
from common.weights.layouts import Shape
from common.weights.spellings import SPELLINGS, TABLES
from common.weights.table import Match, Table

MAX_LISTED = 8  # names in an error message
OF_TOWERS = (
    "gelu",
    "layer_norm_epsilon",
    "num_heads",
    "image_size",
)  # what a user states of a model within another, too


class Found(NamedTuple):
    """A file's table, configuration and the name there of each array under its name of today."""

    table: Table
    config: ModelConfig
    names: dict[str, str]
    assumed: list[str]  # fields that follow from neither shapes nor a config file
    channels: int  # of the images that the stem takes
    unused: list[str]  # names of arrays that are no parameters of the model
    added: dict[str, str]  # {name of today: the array there that is added to it}


def recognise(shapes: Mapping[str, Shape], facts: dict[str, Any], where: object, spelling: str | None = None) -> Found:
    """Recognise a file with arrays of these names and shapes.

    `facts` are fields of the configuration that its config file or the user states. Raises UserError that lists what
    is missing, unexpected or misshapen in the nearest spelling, or the spellings where several fit.
    """
    tables = [table for table in TABLES if spelling in (None, table.spelling)]
    found, undecided = [], None
    for table in tables:
        try:
            one = fit(table, shapes, facts)
        except Undecided as error:
            undecided = error
            continue
        except UserError as error:  # of a configuration that no model can have
            undecided = undecided or f"fits no model ({str(error).rstrip('.')}); download or convert it again."
            continue
        if one and not any(one.config == other.config and same_names(one, other) for other in found):
            found.append(one)
    if len(found) > 1:
        names = ", ".join(f"{one.table.spelling} ({family_name(one.config)})" for one in found)
        raise UserError(f"{where} is ambiguous: it fits {names}; choose one with --from.")
    if found:
        return found[0]
    if undecided:
        raise UserError(f"{where} {undecided}")
    raise UserError(f"{where} {misfit(tables, shapes, facts)}")


def same_names(one: Found, other: Found) -> bool:
    """Whether two tables read a file alike."""
    return one.table.rows(one.config) == other.table.rows(other.config)


def renamed(table: Table, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """{name of today: name in the file} of the arrays that may be parameters; UserError where two become one."""
    names = {}
    for name in shapes:
        today = table.rename(name)
        if today in names:
            raise UserError(f"holds both {names[today]} and {name}, which are one parameter; remove one of them.")
        if today is not None:
            names[today] = name
    return names


def fit(table: Table, shapes: Mapping[str, Shape], facts: dict[str, Any]) -> Found | None:
    """The file by one table, or None where it does not fit; Undecided where only a number is missing."""
    if not all(map(table.may_hold, shapes)):  # of most tables the first name is not one
        return None
    try:
        names = renamed(table, shapes)
    except UserError:
        return None
    added = {into: names.pop(name) for name, into in table.added.items() if {name, into} <= names.keys()}
    if not all(map(table.knows, names)) or any(shapes[names[into]] != shapes[name] for into, name in added.items()):
        return None
    match = table.match({today: shapes[name] for today, name in names.items()})
    if match.unknown:
        return None
    try:
        config, assumed = infer(table, match, facts)
        channels = stem_channels(config, match)
        expected = table.published_shapes(config, channels)
    except (KeyError, IndexError, ZeroDivisionError):
        return None
    if cannot_hold(table, config):
        return None
    same = names.keys() == expected.keys() and all(fits(shapes[names[name]], shape) for name, shape in expected.items())
    unused = sorted(shapes.keys() - {*names.values(), *added.values()})
    return Found(table, config, names, assumed, channels, unused, added) if same else None


def fits(found: Shape, expected: Shape) -> bool:
    """Whether an array may be read as `expected`: the same, or [1, 1, 1, C] for [C]."""
    return found == expected or (len(expected) == 1 and found == (1, 1, 1, *expected))


def misfit(tables: list[Table], shapes: Mapping[str, Shape], facts: dict[str, Any]) -> str:
    """The end of a sentence on a file that fits no table: what model it is, or what the nearest one misses."""
    scores = []
    for table in tables:
        try:
            names = renamed(table, shapes)
        except UserError as error:
            return str(error)
        match = table.match({today: shapes[name] for today, name in names.items()})
        scores.append((len(names) - len(match.unknown), table, names, match))
    most = max(count for count, *_ in scores)
    nearest = [score for score in scores if score[0] == most]
    count, table, names, match = min(nearest, key=lambda score: distance(*score[1:], shapes, facts))
    if (match.unknown or not shapes) and (another := foreign.model(shapes)):
        return another
    if not shapes or count < len(shapes) / 2:
        known = ", ".join(SPELLINGS)
        arrays = f"its arrays are {shorten(list(shapes))}" if shapes else "it is empty"
        return f"holds no model in a spelling that is known ({known}): {arrays}."
    found, expected, unknown = nearest_fit(table, names, match, shapes, facts)
    what = differences(found, expected, unknown)
    if unknown and (another := foreign.model(unknown)):
        return another
    what = what or cannot_hold(table, infer(table, match, facts)[0])
    if what.startswith("positions 'sincos2d'"):
        return f"holds a ViT without positions, and no array tells how its queries and keys turn (timm's vit_*_rope_*); {foreign.OTHER}."
    return f"is nearly {FAMILIES[table.family].name} in the spelling {table.spelling}, but does not fit it ({what}); download or convert it again."


def distance(*tried) -> int:
    """Number of names that a file has and a table does not expect, or the other way round."""
    found, expected, unknown = nearest_fit(*tried)
    return len(found.keys() ^ expected.keys()) + len(unknown)


def nearest_fit(table: Table, names: dict[str, str], match: Match, shapes: Mapping[str, Shape], facts: dict) -> tuple:
    """(shapes found, shapes expected, unknown names) of the nearest table."""
    found = {name: shapes[there] for name, there in names.items()}
    try:
        expected = table.published_shapes(infer(table, match, facts)[0])
    except (KeyError, IndexError, ZeroDivisionError) as error:
        return found, {str(error).strip("'"): ()}, match.unknown
    except UserError:  # of sizes that no such model has: what is unknown tells more
        return found, found, match.unknown
    return found, expected, match.unknown


def differences(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], unknown: list[str] = (), *, same: Callable = fits
) -> str:
    """The missing, unexpected and misshapen names among `found`, in words; empty where all is right."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": list(dict.fromkeys([*unknown, *(name for name in found if name not in expected)])),
        "misshapen": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and not same(found[name], shape)
        ],
    }
    return "; ".join(f"{kind}: {shorten(names)}" for kind, names in problems.items() if names)


def shorten(found: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(found) - MAX_LISTED
    return ", ".join(map(str, found[:MAX_LISTED])) + (f" and {rest} more" if rest > 0 else "")


# --- configurations from shapes


def infer(table: Table, match: Match, facts: dict[str, Any]) -> tuple[ModelConfig, list[str]]:
    """(configuration, assumed fields) of what matched; KeyError where a parameter is missing that the family needs."""
    computes = {name: facts.get(name, value) for name, value in table.computes.items()}
    assumed = [name for name in ("gelu", "layer_norm_epsilon") if name in computes and name not in facts]
    children, given = {}, {name: facts[name] for name in OF_TOWERS if name in facts}
    for name, _, child in table.children:
        try:
            children[name], more = infer(child, match.children[name], fields_of(facts.get(name)) | given)
        except KeyError as error:
            raise KeyError(f"{name}/{error.args[0]}") from error
        assumed += [f"{name} {field}" for field in more]
    return FAMILIES[table.family].infer(Seen(match.shapes, match.num_heads, facts, computes, children)), assumed


def stem_channels(config: ModelConfig, match: Match) -> int:
    """Number of channels of the images that a model takes; of one for texts, 3."""
    if config.image_kernel is None:
        return 3
    name = config.image_kernel
    while name not in match.shapes:
        child, _, name = name.partition("/")
        match = match.children[child]
    return match.shapes[name][-2]


def fields_of(config: ModelConfig | dict[str, Any] | None) -> dict[str, Any]:
    """{field: value} of a configuration, if there is one, or of what a config file says of a child."""
    if config is None or isinstance(config, dict):
        return config or {}
    return {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
