"""What a file holds, from the names and shapes in it: family, configuration and spelling."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from common.models import VIT_VARIANTS, MixerConfig, ModelConfig, ResNetConfig, ResNetV1Config, ViTConfig
from common.system.errors import UserError, nearest
from common.weights import foreign
from common.weights.layouts import Shape
from common.weights.spellings import coyo, google, huggingface, ours, timm, torchvision
from common.weights.table import STEMS, Match, Table

TABLES = (*ours.TABLES, *google.TABLES, *coyo.TABLES, *timm.TABLES, *huggingface.TABLES, *torchvision.TABLES)
SPELLINGS = tuple(dict.fromkeys(table.spelling for table in TABLES))
FAMILIES = {ResNetConfig: "BiT", ResNetV1Config: "ResNet V1", ViTConfig: "ViT", MixerConfig: "MLP-Mixer"}
MAX_LISTED = 8  # names in an error message
HEADS_HINT = "its number of heads; give --num_heads"


class Found(NamedTuple):
    """A file's table, configuration and the name there of each array under its name of today."""

    table: Table
    config: ModelConfig
    names: dict[str, str]
    assumed: list[str]  # fields that neither shapes nor a config file tell
    channels: int  # of the images that the stem takes
    unused: list[str]  # names of arrays that are no parameters of the model


class Undecided(UserError):
    """The names are right, and something that the model needs is told by neither names nor shapes."""


def family_name(config: ModelConfig) -> str:
    """What a person calls the family of a configuration."""
    return "hybrid of ResNet and ViT" if getattr(config, "backbone", None) else FAMILIES[type(config)]


def recognise(shapes: Mapping[str, Shape], facts: dict[str, Any], where: object, spelling: str | None = None) -> Found:
    """What a file with arrays of these names and shapes holds.

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
    try:
        names = renamed(table, shapes)
    except UserError:
        return None
    if not all(map(table.knows, names)):
        return None
    match = table.match({today: shapes[name] for today, name in names.items()})
    if match.unknown or not match.shapes:
        return None
    try:
        config, assumed = infer(table, match, facts)
        channels = stem_channels(match.shapes)
        expected = table.published_shapes(config, channels)
    except (KeyError, IndexError, ZeroDivisionError, StopIteration):
        return None
    if cannot_hold(table, config):
        return None
    same = names.keys() == expected.keys() and all(fits(shapes[names[name]], shape) for name, shape in expected.items())
    unused = sorted(shapes.keys() - names.values())
    return Found(table, config, names, assumed, channels, unused) if same else None


def fits(found: Shape, expected: Shape) -> bool:
    """Whether an array may be read as `expected`: the same, or [1, 1, 1, C] for [C]."""
    return found == expected or (len(expected) == 1 and found == (1, 1, 1, *expected))


def misfit(tables: list[Table], shapes: Mapping[str, Shape], facts: dict[str, Any]) -> str:
    """The end of a sentence on a file that fits no table: what model it is, or what the nearest one misses."""
    if another := foreign.model(shapes):
        return another
    scores = []
    for table in tables:
        try:
            names = renamed(table, shapes)
        except UserError as error:
            return str(error)
        match = table.match({today: shapes[name] for today, name in names.items()})
        scores.append((len(names) - len(match.unknown), table, names, match))
    count, table, names, match = max(scores, key=lambda score: score[0])
    if not shapes or count < len(shapes) / 2:
        known = ", ".join(SPELLINGS)
        arrays = f"its arrays are {shorten(list(shapes))}" if shapes else "it is empty"
        return f"holds no model in a spelling that is known ({known}): {arrays}."
    found, expected, unknown = nearest_fit(table, names, match, shapes, facts)
    what = differences(found, expected, unknown) or cannot_hold(table, infer(table, match, facts)[0])
    return f"is nearly {FAMILIES[table.family]} in the spelling {table.spelling}, but does not fit it ({what}); download or convert it again."


def nearest_fit(table: Table, names: dict[str, str], match: Match, shapes: Mapping[str, Shape], facts: dict) -> tuple:
    """(shapes found, shapes expected, unknown names) of the nearest table."""
    found = {name: shapes[there] for name, there in names.items()}
    try:
        expected = table.published_shapes(infer(table, match, facts)[0])
    except (KeyError, IndexError, ZeroDivisionError) as error:
        return found, {str(error).strip("'"): ()}, match.unknown
    return found, expected, match.unknown


def differences(found: Mapping[str, Shape], expected: Mapping[str, Shape], unknown: list[str]) -> str:
    """Missing, unexpected and misshapen arrays, listed."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": list(dict.fromkeys([*unknown, *(name for name in found if name not in expected)])),
        "misshapen": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and not fits(found[name], shape)
        ],
    }
    return "; ".join(f"{kind}: {shorten(names)}" for kind, names in problems.items() if names)


def shorten(found: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(found) - MAX_LISTED
    return ", ".join(map(str, found[:MAX_LISTED])) + (f" and {rest} more" if rest > 0 else "")


# --- configurations from shapes


def infer(table: Table, match: Match, facts: dict[str, Any]) -> tuple[ModelConfig, list[str]]:
    """(configuration, assumed fields) of canonical shapes; KeyError where one is missing that the family needs."""
    shapes, computes = match.shapes, table.computes
    given = {name: facts.get(name, value) for name, value in computes.items() if name != "backbone"}
    assumed = [name for name in ("gelu", "layer_norm_epsilon") if name in computes and name not in facts]
    if table.family is ViTConfig:
        return infer_vit(shapes, match.num_heads, facts, given, computes.get("backbone", {})), assumed
    if table.family is MixerConfig:
        return infer_mixer(shapes, facts, given), assumed
    stem, units = ("stem/kernel" if table.family is ResNetConfig else "stem/conv/kernel"), infer_units(shapes, "")
    given = {name: value for name, value in given.items() if name != "standardization"}
    if "num_groups" in facts:  # narrow models have fewer than 32, of which no array tells
        given["num_groups"] = facts["num_groups"]
    return table.family(units, shapes[stem][-1] / 64, infer_classes(shapes), **given), assumed


def infer_classes(shapes: dict[str, Shape]) -> int | None:
    """Number of classes, or None where there is no head."""
    return next((shapes[name][-1] for name in ("head/bias", "head/kernel") if name in shapes), None)


def stem_channels(shapes: dict[str, Shape]) -> int:
    """Number of channels of the images that a model takes."""
    return next(shapes[name][-2] for name in STEMS if name in shapes)


def infer_units(shapes: dict[str, Shape], prefix: str) -> tuple[int, ...]:
    """Number of blocks per stage of a ResNet: each stage begins with a projection."""
    counts, block = [], 0
    while f"{prefix}blocks/{block}/conv1/kernel" in shapes:
        if f"{prefix}blocks/{block}/proj/kernel" in shapes or not counts:
            counts.append(0)
        counts[-1] += 1
        block += 1
    return tuple(counts)


def infer_depth(shapes: dict[str, Shape]) -> int:
    """Number of blocks of a transformer or Mixer."""
    depth = 0
    while f"blocks/{depth}/norm1/scale" in shapes:
        depth += 1
    return depth


def infer_vit(
    shapes: dict[str, Shape], heads: int | None, facts: dict[str, Any], given: dict[str, Any], backbone: dict[str, Any]
) -> ViTConfig:
    """The ViT of canonical shapes."""
    height, width_px, _, width = shapes["stem/kernel"]
    depth, mlp_dim = infer_depth(shapes), shapes["blocks/0/mlp/fc1/kernel"][1]
    heads = heads or facts.get("num_heads") or published_heads(width, depth, mlp_dim)
    resnet = None
    if "backbone/stem/conv/kernel" in shapes:
        stem_width = shapes["backbone/stem/conv/kernel"][-1]
        resnet = ResNetV1Config(infer_units(shapes, "backbone/"), stem_width / 64, **backbone)
    pooling = "map" if "pool/probe" in shapes else "token" if "cls" in shapes else facts.get("pooling", "gap")
    sizes = {"patch_size": (height, width_px), "width": width, "depth": depth, "num_heads": heads, "mlp_dim": mlp_dim}
    sizes |= {"num_classes": infer_classes(shapes), "pooling": pooling}
    sizes |= {"pre_logits": shapes["pre_logits/bias"][0] if "pre_logits/bias" in shapes else None, "backbone": resnet}
    if "pos_embedding" not in shapes:
        image_size = facts.get("image_size", (224, 224))
        return ViTConfig(**sizes, **given, positions="sincos2d", cls_position=False, image_size=image_size)
    count = shapes["pos_embedding"][1]
    stride = resnet.stride if resnet else 1
    image_size, cls_position = infer_grid(count, "cls" in shapes, (height, width_px), stride, facts.get("image_size"))
    return ViTConfig(**sizes, **given, image_size=image_size, cls_position=cls_position)


def infer_grid(
    count: int, has_cls: bool, patch_size: Shape, stride: int, image_size: Shape | None
) -> tuple[Shape, bool]:
    """(height and width of the images in pixels, whether the class token has a position) of `count` positions."""
    choices = [(count - 1, True), (count, False)] if has_cls else [(count, True)]
    if image_size is None:
        for patches, cls_position in choices:
            if patches and math.isqrt(patches) ** 2 == patches:
                return tuple(math.isqrt(patches) * stride * patch for patch in patch_size), cls_position
        raise Undecided(f"has {count} positions, which form no square; give --image_size HEIGHTxWIDTH in pixels.")
    rows, columns = (-(-size // stride) // patch for size, patch in zip(image_size, patch_size))
    for patches, cls_position in choices:
        if rows * columns == patches:
            return tuple(image_size), cls_position
    size = " x ".join(map(str, image_size))
    raise Undecided(
        f"has {count} positions, and images of {size} pixels have {rows} x {columns} patches; give another --image_size."
    )


def published_heads(width: int, depth: int, mlp_dim: int) -> int:
    """Number of heads of the published variant of these sizes."""
    for *sizes, heads, mlp, _ in VIT_VARIANTS.values():
        if (*sizes, mlp) == (width, depth, mlp_dim):
            return heads
    raise Undecided(f"does not tell {HEADS_HINT}.")


def infer_mixer(shapes: dict[str, Shape], facts: dict[str, Any], given: dict[str, Any]) -> MixerConfig:
    """The Mixer of canonical shapes."""
    height, width_px, _, width = shapes["stem/kernel"]
    tokens, tokens_mlp_dim = shapes["blocks/0/token_mixing/fc1/kernel"]
    channels_mlp_dim = shapes["blocks/0/channel_mixing/fc1/kernel"][1]
    image_size, _ = infer_grid(tokens, False, (height, width_px), 1, facts.get("image_size"))
    sizes = ((height, width_px), width, infer_depth(shapes), tokens_mlp_dim, channels_mlp_dim, infer_classes(shapes))
    return MixerConfig(*sizes, image_size=image_size, **given)


# --- what a spelling can hold


def backbone_kind(config: ModelConfig) -> str:
    """none, stem or stages."""
    backbone = getattr(config, "backbone", None)
    return "none" if backbone is None else "stages" if backbone.num_units else "stem"


def is_square(config: ModelConfig) -> bool:
    """Whether images and patches are as high as wide."""
    return len({*config.image_size}) == len({*config.patch_size}) == 1


DERIVED = {"backbone": backbone_kind, "square": is_square}  # what tables say of a model besides its fields


def cannot_hold(table: Table, config: ModelConfig) -> str | None:
    """Why a table cannot hold a model as it is, or None."""
    for field, allowed in table.holds.items():
        value = DERIVED[field](config) if field in DERIVED else getattr(config, field)
        if field == "cls_position" and config.pooling != "token":
            continue
        if value not in allowed:
            return f"{field} {value!r}, only {' or '.join(map(repr, allowed))}"
    return None


def choose_table(spelling: str, config: ModelConfig) -> Table:
    """The table that writes models of a family in a spelling; UserError where there is none."""
    if spelling not in SPELLINGS:
        raise UserError(f"No spelling is called {spelling!r}{nearest(spelling, SPELLINGS)}")
    tables = [table for table in TABLES if table.spelling == spelling and table.family is type(config)]
    if not tables:
        others = ", ".join(dict.fromkeys(t.spelling for t in TABLES if t.family is type(config)))
        raise UserError(f"{spelling} has no {FAMILIES[type(config)]}; choose one of {others}.")
    kind = backbone_kind(config)
    fitting = [table for table in tables if kind in table.holds.get("backbone", google.ANY_BACKBONE)]
    if not fitting:
        raise UserError(f"{spelling} has no {family_name(config)}; choose another spelling.")
    return fitting[0]
