"""The spelling of jeonsworld's ViT-pytorch, a port of vision_transformer: read only.

Its checkpoints are pickles: `bit_pytorch.import_weights` makes safetensors of them. Source: `models/modeling.py` of jeonsworld/ViT-pytorch.
"""

from common.models import ViTConfig
from common.weights.rows import dotted
from common.weights.spellings.google import CLASS_TOKEN
from common.weights.spellings.timm import DENSE, NORM, PATCHES
from common.weights.table import Table

BLOCK = (
    *dotted("norm1", "attention_norm", NORM),
    *dotted("attn/query", "attn.query", DENSE),
    *dotted("attn/key", "attn.key", DENSE),
    *dotted("attn/value", "attn.value", DENSE),
    *dotted("attn/out", "attn.out", DENSE),
    *dotted("norm2", "ffn_norm", NORM),
    *dotted("mlp/fc1", "ffn.fc1", DENSE),
    *dotted("mlp/fc2", "ffn.fc2", DENSE),
)
VIT = (
    ("cls", "transformer.embeddings.cls_token"),
    ("pos_embedding", "transformer.embeddings.position_embeddings"),
    *dotted("stem", "transformer.embeddings.patch_embeddings", PATCHES),
    *dotted("blocks/{block}", "transformer.encoder.layer.{block}", BLOCK),
    *dotted("norm", "transformer.encoder.encoder_norm", NORM),
    *dotted("head", "head", DENSE),
)
TABLES = (
    Table(
        "jeonsworld", ViTConfig, VIT, holds=CLASS_TOKEN | {"pre_logits": (None,)},
        computes={"gelu": "erf", "layer_norm_epsilon": 1e-6}, written=False,
    ),
)  # fmt: skip
