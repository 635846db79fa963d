"""The published layouts of the weights as tables: which name is which, one file for each project."""

from common.weights.spellings import (
    coyo,
    facebook,
    google,
    huggingface,
    jeonsworld,
    keras_hub,
    open_clip,
    ours,
    timm,
    torchvision,
)

TABLES = (
    *ours.TABLES,
    *google.TABLES,
    *coyo.TABLES,
    *timm.TABLES,
    *facebook.TABLES,
    *huggingface.TABLES,
    *open_clip.TABLES,
    *keras_hub.TABLES,
    *jeonsworld.TABLES,
    *torchvision.TABLES,
)
SPELLINGS = tuple(dict.fromkeys(table.spelling for table in TABLES))
