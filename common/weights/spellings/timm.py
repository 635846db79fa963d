"""The spelling of timm: PyTorch names in safetensors, with a `config.json` (common/weights/timm_config.py).

Sources: `models/vision_transformer.py`, `vision_transformer_hybrid.py`, `mlp_mixer.py`, `resnetv2.py`, `_hub.py` of
huggingface/pytorch-image-models.
"""

from common.models import (
    MixerConfig,
    ResNetConfig,
    ResNetV1Config,
    ViTConfig,
)
from common.weights.rows import dotted
from common.weights.spellings.google import OF_CLIP, ONE_PATCH
from common.weights.table import Table, prefixed

DENSE = (("kernel", "weight", "IO -> OI"), ("bias", "bias"))
CONV = (("kernel", "weight", "HWIO -> OIHW"),)
PATCHES = (*CONV, ("bias", "bias"))
NORM = (("scale", "weight"), ("bias", "bias"))


def fused(ours: tuple[str, ...], theirs: str) -> tuple:
    """Rows of dense layers that are one there, their outputs one after the other."""
    return tuple((tuple(f"{name}/{row[0]}" for name in ours), f"{theirs}.{row[1]}", *row[2:]) for row in DENSE)


MLP = (*dotted("fc1", "fc1", DENSE), *dotted("fc2", "fc2", DENSE))
BLOCK = (
    *dotted("norm1", "norm1", NORM),
    *fused(("attn/query", "attn/key", "attn/value"), "attn.qkv"),
    *dotted("attn/out", "attn.proj", DENSE),
    *dotted("norm2", "norm2", NORM),
    *dotted("mlp", "mlp", MLP),
)
POOL = (
    ("probe", "latent"),
    *dotted("attn/query", "q", DENSE),
    *fused(("attn/key", "attn/value"), "kv"),
    *dotted("attn/out", "proj", DENSE),
    *dotted("norm", "norm", NORM),
    *dotted("mlp", "mlp", MLP),
)
VIT = (
    ("cls", "cls_token"),
    ("pos_embedding", "pos_embed"),
    *dotted("stem", "patch_embed.proj", PATCHES),
    *dotted("blocks/{block}", "blocks.{block}", BLOCK),
    *dotted("norm", "norm", NORM),
    *dotted("pool", "attn_pool", POOL),
    *dotted("head", "head", DENSE),
)
CLIP = (*VIT, *dotted("pre_norm", "norm_pre", NORM))
CONVOLUTIONS = tuple(row for i in (1, 2, 3) for row in (
    *dotted(f"conv{i}", f"conv{i}", CONV), *dotted(f"norm{i}", f"norm{i}", NORM)
))  # fmt: skip
CELL = (
    *CONVOLUTIONS,
    *dotted("proj", "downsample.conv", CONV),
    *dotted("proj_norm", "downsample.norm", NORM),
)
CELLS = "stages.{stage}.blocks.{unit}"
BIT = (
    *dotted("stem", "stem.conv", CONV),
    *dotted("blocks/{cell}", CELLS, CELL),
    *dotted("norm", "norm", NORM),
    ("head/kernel", "head.fc.weight", "IO -> OI11"),
    ("head/bias", "head.fc.bias"),
)
STEM = (*dotted("conv", "conv", CONV), *dotted("norm", "norm", NORM))
MIXER = (
    *dotted("stem", "stem.proj", PATCHES),
    *dotted("blocks/{block}/norm1", "blocks.{block}.norm1", NORM),
    *dotted("blocks/{block}/token_mixing", "blocks.{block}.mlp_tokens", MLP),
    *dotted("blocks/{block}/norm2", "blocks.{block}.norm2", NORM),
    *dotted("blocks/{block}/channel_mixing", "blocks.{block}.mlp_channels", MLP),
    *dotted("norm", "norm", NORM),
    *dotted("head", "head", DENSE),
)


ERF = {"gelu": "erf", "layer_norm_epsilon": 1e-6}
HOLDS = {"pooling": ("token", "gap", "map"), "positions": ("learned",), "pre_logits": (None,)} | OF_CLIP | ONE_PATCH
OF_CLIPS = HOLDS | {"pooling": ("token", "gap"), "stem_bias": (False,), "pre_norm": (True,)}
STANDARDIZATION = {"standardization": "variance", "standardization_epsilon": 1e-8, "group_norm_epsilon": 1e-5}
BIT_COMPUTES = {
    "standardization_epsilon": 1e-8,
    "group_norm_epsilon": 1e-5,
    "max_pool_padding": "zero",
    "num_groups": 32,
}
STAGES = (*dotted("stem", "stem", STEM), *dotted("blocks/{cell}", CELLS, CELL))
STEM_ONLY = tuple((f"stem/{row[0]}", *row[1:]) for row in STEM)
BACKBONES = (
    Table("timm", ResNetV1Config, STAGES, holds={"has_stages": (True,)}, computes=STANDARDIZATION, first_unit=0),
    Table("timm", ResNetV1Config, STEM_ONLY, holds={"has_stages": (False,)}, computes=STANDARDIZATION),
)

TABLES = (
    Table("timm", ResNetConfig, BIT, computes=BIT_COMPUTES, first_unit=0),
    Table("timm", ViTConfig, VIT, holds=HOLDS, computes=ERF),
    Table("timm", ViTConfig, CLIP, holds=OF_CLIPS, computes=ERF | {"layer_norm_epsilon": 1e-5}),
    *(
        Table(
            "timm", ViTConfig, VIT,
            children=(prefixed(backbone, "backbone", "patch_embed.backbone."),), holds=HOLDS, computes=ERF,
        )
        for backbone in BACKBONES
    ),
    Table("timm", MixerConfig, MIXER, computes=ERF),
)  # fmt: skip
