"""Our own spelling: canonical names (common/models/), in any kind of file, every family."""

from common.models import MixerConfig, ResNetConfig, ResNetV1Config, ViTConfig
from common.weights.spellings import google
from common.weights.table import Table, prefixed


def canonical(table: Table) -> tuple:
    """Our names in a table of another spelling."""
    return tuple((name, name) for template in table.templates for name in template.ours)


def first(family: type) -> Table:
    """Google's table of a family that holds most of it."""
    return next(table for table in google.TABLES if table.family is family)


VIT = tuple(dict.fromkeys(row for table in google.TABLES if table.family is ViTConfig for row in canonical(table)))
BACKBONE = Table("ours", ResNetV1Config, canonical(google.HYBRID[0].table))
TABLES = (
    *(Table("ours", family, canonical(first(family))) for family in (ResNetConfig, ResNetV1Config, MixerConfig)),
    Table("ours", ViTConfig, VIT),
    Table("ours", ViTConfig, VIT, children=(prefixed(BACKBONE, "backbone", "backbone/"),)),
)
