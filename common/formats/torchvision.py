"""The spelling of torchvision's `vit_b_16`, `vit_l_16`, ...: PyTorch names in safetensors.

torchvision publishes pickles: `python -m bit_pytorch.import_weights` makes safetensors of them.
Source: `torchvision/models/vision_transformer.py` of pytorch/vision.
"""

from common.formats.google import CLASS_TOKEN
from common.formats.tables import Table
from common.formats.timm import DENSE, ERF, NORM, PATCHES, dotted
from common.models import ViTConfig

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
TABLES = (
    Table(
        "torchvision",
        ViTConfig,
        ROWS,
        holds=CLASS_TOKEN | {"square": (True,)},
        computes=ERF,
        aliases=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),  # before version 0.13
    ),
)
