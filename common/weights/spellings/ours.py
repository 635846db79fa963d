"""Our own spelling: canonical names (common/models/), in any kind of file, every family."""

from common.models import (
    BertConfig,
    DecoderConfig,
    MixerConfig,
    ResNetConfig,
    ResNetV1Config,
    TextConfig,
    TwoTowersConfig,
    ViTConfig,
    VqVaeConfig,
)  # fmt: skip
from common.weights.spellings import google
from common.weights.table import Table, prefixed


def canonical(table: Table) -> tuple:
    """Our names in a table of another spelling."""
    return tuple((name, name) for template in table.templates for name in template.ours)


def first(family: type) -> Table:
    """Google's table of a family that holds most of it."""
    return next(table for table in google.TABLES if table.family is family)


def both(*names: str) -> tuple:
    """Rows of arrays that no other spelling calls so."""
    return tuple((name, name) for name in names)


NORMS = (
    "pre_norm",
    "pool_norm",
    "image_norm",
    "embed_norm",
    "blocks/{block}/attn/query_norm",
    "blocks/{block}/attn/key_norm",
)
PARTS = (
    *both("dist", "registers", "blocks/{block}/layer_scale1/scale", "blocks/{block}/layer_scale2/scale"),
    *both(*(f"{name}/{leaf}" for name in NORMS for leaf in ("scale", "bias"))),
    *both(*(f"{name}/{leaf}" for name in ("blocks/{block}/mlp/gate", "head_dist") for leaf in ("kernel", "bias"))),
)
VIT = tuple(dict.fromkeys(row for table in google.TABLES if table.family is ViTConfig for row in canonical(table)))
VIT = tuple(dict.fromkeys((*VIT, *PARTS)))
POOLER = tuple((f"pre_logits/{leaf}",) * 2 for leaf in ("kernel", "bias"))
BACKBONE = Table("ours", ResNetV1Config, canonical(google.HYBRID[0].table))
IMAGES = (
    *(Table("ours", family, canonical(first(family))) for family in (ResNetConfig, ResNetV1Config, MixerConfig)),
    Table("ours", ViTConfig, VIT),
    Table("ours", ViTConfig, VIT, children=(prefixed(BACKBONE, "backbone", "backbone/"),)),
)
TEXTS = (
    Table("ours", TextConfig, canonical(google.TEXT["big_vision"])),
    Table("ours", BertConfig, (*canonical(google.TEXT["bert"]), *POOLER)),
)
TABLES = (
    *IMAGES,
    *TEXTS,
    *(
        Table(
            "ours", TwoTowersConfig, (("t", "t"), ("b", "b")),
            children=(prefixed(image, "image", "image/"), *((prefixed(text, "text", "text/"),) if text else ())),
        )
        for image in IMAGES
        for text in (*TEXTS, None)
    ),
    Table("ours", VqVaeConfig, canonical(first(VqVaeConfig))),
    Table(
        "ours", DecoderConfig, canonical(first(DecoderConfig)),
        children=(prefixed(Table("ours", ViTConfig, VIT), "image", "image/"),),
    ),
)  # fmt: skip
