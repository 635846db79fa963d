"""The spelling of Hugging Face transformers: safetensors with a `config.json` (common/weights/huggingface_config.py).

    huggingface     ViT in the names that every version saves and loads; BiT
    huggingface_v5  ViT in the names that modules bear since version 5

Models without a head (`ViTModel`, `BitModel`) have the names without `vit.` or `bit.` before them; a `ViTModel` has a
pooler as well, which no other part of it uses.

Sources: `models/vit/modeling_vit.py`, `models/bit/modeling_bit.py` of huggingface/transformers.
"""

from common.models import ResNetConfig, ViTConfig
from common.weights.rows import dotted
from common.weights.spellings.google import CLASS_TOKEN
from common.weights.spellings.timm import BIT_COMPUTES, CONV, DENSE, NORM, PATCHES
from common.weights.spellings.timm import CELL as TIMM_CELL
from common.weights.table import Table

BLOCK = (
    *dotted("norm1", "layernorm_before", NORM),
    *dotted("attn/query", "attention.attention.query", DENSE),
    *dotted("attn/key", "attention.attention.key", DENSE),
    *dotted("attn/value", "attention.attention.value", DENSE),
    *dotted("attn/out", "attention.output.dense", DENSE),
    *dotted("norm2", "layernorm_after", NORM),
    *dotted("mlp/fc1", "intermediate.dense", DENSE),
    *dotted("mlp/fc2", "output.dense", DENSE),
)
BLOCK_V5 = (
    *dotted("norm1", "layernorm_before", NORM),
    *dotted("attn/query", "attention.q_proj", DENSE),
    *dotted("attn/key", "attention.k_proj", DENSE),
    *dotted("attn/value", "attention.v_proj", DENSE),
    *dotted("attn/out", "attention.o_proj", DENSE),
    *dotted("norm2", "layernorm_after", NORM),
    *dotted("mlp/fc1", "mlp.fc1", DENSE),
    *dotted("mlp/fc2", "mlp.fc2", DENSE),
)
BIT = (
    *dotted("stem", "bit.embedder.convolution", CONV),
    *dotted("blocks/{cell}", "bit.encoder.stages.{stage}.layers.{unit}", TIMM_CELL),
    *dotted("norm", "bit.norm", NORM),
    *dotted("head", "classifier.1", DENSE),
)


def vit_rows(block: str, rows: tuple) -> tuple:
    """Rows of a ViT."""
    return (
        ("cls", "vit.embeddings.cls_token"),
        ("pos_embedding", "vit.embeddings.position_embeddings"),
        *dotted("stem", "vit.embeddings.patch_embeddings.projection", PATCHES),
        *dotted("blocks/{block}", block, rows),
        *dotted("norm", "vit.layernorm", NORM),
        *dotted("head", "classifier", DENSE),
    )


VIT = {
    "aliases": ((r"^(embeddings|encoder|layers|layernorm|pooler)\.", r"vit.\1."),),
    "ignored": r"^vit\.pooler\.|^vit\.embeddings\.mask_token$|^decoder\.0\.",  # of ViTForMaskedImageModeling
    "holds": CLASS_TOKEN | {"pre_logits": (None,)},
    "computes": {"gelu": "erf", "layer_norm_epsilon": 1e-12},
}
TABLES = (
    Table(
        "huggingface", ResNetConfig, BIT,
        computes=BIT_COMPUTES, first_unit=0, aliases=((r"^(embedder|encoder|norm)\.", r"bit.\1."),),
    ),
    Table("huggingface", ViTConfig, vit_rows("vit.encoder.layer.{block}", BLOCK), **VIT),
    Table("huggingface_v5", ViTConfig, vit_rows("vit.layers.{block}", BLOCK_V5), **VIT),
)  # fmt: skip
