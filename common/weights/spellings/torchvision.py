"""The spelling of torchvision's `vit_b_16`, `vit_l_16`, ...: PyTorch names in safetensors.

torchvision publishes pickles: `python -m bit_pytorch.import_weights` makes safetensors of them.
Source: `torchvision/models/vision_transformer.py` of pytorch/vision.
"""

import dataclasses

from common.models import ViTConfig
from common.models.cards import Card
from common.weights.processors import IMAGENET_MEAN, IMAGENET_STD
from common.weights.rows import dotted
from common.weights.spellings.google import CLASS_TOKEN
from common.weights.spellings.timm import DENSE, ERF, NORM, PATCHES
from common.weights.table import Table

ATTENTION = ("attn/query", "attn/key", "attn/value")
BLOCK = (
    *dotted("norm1", "ln_1", NORM),
    (tuple(f"{name}/kernel" for name in ATTENTION), "self_attention.in_proj_weight", "IO -> OI"),
    (tuple(f"{name}/bias" for name in ATTENTION), "self_attention.in_proj_bias"),
    *dotted("attn/out", "self_attention.out_proj", DENSE),
    *dotted("norm2", "ln_2", NORM),
    *dotted("mlp/fc1", "mlp.0", DENSE),
    *dotted("mlp/fc2", "mlp.3", DENSE),
)
ROWS = (
    ("cls", "class_token"),
    ("pos_embedding", "encoder.pos_embedding"),
    *dotted("stem", "conv_proj", PATCHES),
    *dotted("blocks/{block}", "encoder.layers.encoder_layer_{block}", BLOCK),
    *dotted("norm", "encoder.ln", NORM),
    *dotted("pre_logits", "heads.pre_logits", DENSE),
    *dotted("head", "heads.head", DENSE),
)


def prepared(config: ViTConfig) -> tuple[Card, str]:
    """The preparation of torchvision's own weights of this size: at 224 px those of ImageNet alone, above SWAG's."""
    resolution = config.image_size[0]
    card = Card(resolution=resolution, mean=IMAGENET_MEAN, std=IMAGENET_STD, rounding="torchvision")
    if resolution == 224:
        side = 242 if (config.width, config.patch_size) == (1024, (16, 16)) else 256
        card = dataclasses.replace(card, eval_resize=side, resize_kind="bilinear")
    else:
        side = resolution
        card = dataclasses.replace(card, eval_resize=side, resize_kind="bicubic")
    note = f"no file states how images are prepared, so ImageNet's mean and deviation, {side} px and {card.resize_kind}"
    return card, f"{note} are taken, as torchvision's own weights want them"


TABLES = (
    Table(
        "torchvision",
        ViTConfig,
        ROWS,
        holds=CLASS_TOKEN | {"square": (True,)},
        computes=ERF,
        prepares=prepared,
        aliases=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),  # before version 0.13
    ),
)
