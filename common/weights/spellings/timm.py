"""The spelling of timm: PyTorch names in safetensors, with a `config.json` (common/weights/timm_config.py).

Facebook's DINO, MAE and DeiT have these names, too; what is theirs alone stands in facebook.py.

Sources: `models/vision_transformer.py`, `deit.py`, `eva.py` (DINOv3), `vision_transformer_hybrid.py`, `mlp_mixer.py`, `resnetv2.py`, `_hub.py` of
huggingface/pytorch-image-models.
"""

from common.models import (
    MixerConfig,
    ResNetConfig,
    ResNetV1Config,
    ViTConfig,
)
from common.models.transformer import ATTENTION as BIASED
from common.weights.rows import dotted
from common.weights.spellings.google import OF_CLIP, ONE_PATCH
from common.weights.table import AtLeast, Table, prefixed

DENSE = (("kernel", "weight", "IO -> OI"), ("bias", "bias"))
CONV = (("kernel", "weight", "HWIO -> OIHW"),)
PATCHES = (*CONV, ("bias", "bias"))
NORM = (("scale", "weight"), ("bias", "bias"))


def fused(ours: tuple[str, ...], theirs: str) -> tuple:
    """Rows of dense layers that are one there, their outputs one after the other."""
    return tuple((tuple(f"{name}/{row[0]}" for name in ours), f"{theirs}.{row[1]}", *row[2:]) for row in DENSE)


MLP = (*dotted("fc1", "fc1", DENSE), *dotted("fc2", "fc2", DENSE))
NORMS_AND_OUT = (
    *dotted("norm1", "norm1", NORM),
    *dotted("attn/query_norm", "attn.q_norm", NORM),
    *dotted("attn/key_norm", "attn.k_norm", NORM),
    *dotted("attn/out", "attn.proj", DENSE),
    *dotted("norm2", "norm2", NORM),
)
SCALES = (("layer_scale1/scale", "ls1.gamma"), ("layer_scale2/scale", "ls2.gamma"))
ATTENTION = (*NORMS_AND_OUT, *fused(("attn/query", "attn/key", "attn/value"), "attn.qkv"))
BLOCK = (*ATTENTION, *SCALES, *dotted("mlp", "mlp", MLP))
GATED_BLOCK = (
    *ATTENTION,
    *SCALES,
    *fused(("mlp/gate", "mlp/fc1"), "mlp.fc1"),
    *dotted("mlp/fc2", "mlp.fc2", DENSE),
)
DINOV3_PARTS = (
    *NORMS_AND_OUT,
    (tuple(f"attn/{part}/kernel" for part in ("query", "key", "value")), "attn.qkv.weight", "IO -> OI"),
    ("attn/query/bias", "attn.q_bias"),
    ("attn/value/bias", "attn.v_bias"),
    ("layer_scale1/scale", "gamma_1"),
    ("layer_scale2/scale", "gamma_2"),
)
SPLIT_GATE = (*dotted("gate", "fc1_g", DENSE), *dotted("fc1", "fc1_x", DENSE), *dotted("fc2", "fc2", DENSE))
POOL = (
    ("probe", "latent"),
    *dotted("attn/query", "q", DENSE),
    *fused(("attn/key", "attn/value"), "kv"),
    *dotted("attn/out", "proj", DENSE),
    *dotted("norm", "norm", NORM),
    *dotted("mlp", "mlp", MLP),
)


def vit_rows(block: tuple, registers: str = "reg_token") -> tuple:
    """Rows of a ViT with such blocks."""
    return (
        ("cls", "cls_token"),
        ("dist", "dist_token"),
        ("registers", registers),
        ("pos_embedding", "pos_embed"),
        *dotted("stem", "patch_embed.proj", PATCHES),
        *dotted("blocks/{block}", "blocks.{block}", block),
        *dotted("norm", "norm", NORM),
        *dotted("pool_norm", "fc_norm", NORM),
        *dotted("pool", "attn_pool", POOL),
        *dotted("head", "head", DENSE),
        *dotted("head_dist", "head_dist", DENSE),
    )


VIT = vit_rows(BLOCK)
TOKENS = ("cls", "dist", "registers", "head_dist/kernel", "head_dist/bias")
FINE_TUNED = (("registers", "cls_token"), *(row for row in VIT if row[0] not in TOKENS))
NAFLEX = (
    *(row for row in VIT if row[1].startswith(("blocks.", "norm.", "attn_pool.", "head."))),
    ("pos_embedding", "embeds.pos_embed", "1(YX)D -> 1YXD"),
    ("stem/kernel", "embeds.proj.weight", "HWIO -> O(HWI)"),
    ("stem/bias", "embeds.proj.bias"),
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


OTHERS = r"^mask_token$|^decoder_"  # of what facebook trained as an autoencoder, or to predict
ERF = {"gelu": "erf", "layer_norm_epsilon": 1e-6}
HOLDS = (
    {"pooling": ("token", "gap", "map", "gap_norm"), "positions": ("learned",), "pre_logits": (None,)}
    | OF_CLIP
    | ONE_PATCH
)
MODERN = HOLDS | {  # but for qk_norm, what DeiT III, DINOv2 and its like have
    "layer_scale": (False, True), "qk_norm": (False, True), "attn_biases": (BIASED, ("out",)),
    "registers": AtLeast(0), "register_positions": (False, True), "mixed_positions": (False,), "cls_position": (True, False),
}  # fmt: skip
POOLED_TOKEN = MODERN | {"pooling": ("gap_norm",), "registers": (1,), "register_positions": (True,)}  # and no patch
DISTILLED = HOLDS | {"pooling": ("token",), "cls_position": (True,), "distilled": (True,)}
DINOV3 = MODERN | {
    "pooling": ("token",), "positions": ("rotary",), "qk_norm": (False,), "layer_scale": (True,),
    "attn_biases": (("out",), ("query", "value", "out")), "gelu": ("erf",),
}  # fmt: skip
OF_NAFLEX = HOLDS | {
    "naflex": (True,), "square": (True,), "pooling": ("map",), "layer_scale": (False, True), "qk_norm": (False, True),
}  # fmt: skip
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
    Table("timm", ViTConfig, FINE_TUNED, holds=POOLED_TOKEN, computes=ERF),
    Table("timm", ViTConfig, VIT, holds=MODERN, computes=ERF, ignored=OTHERS),
    Table("timm", ViTConfig, vit_rows(GATED_BLOCK), holds=MODERN | {"swiglu": (True,)}, computes=ERF),
    Table("timm", ViTConfig, VIT, holds=DISTILLED, computes=ERF),
    *(
        Table(
            "timm", ViTConfig, vit_rows((*DINOV3_PARTS, *dotted("mlp", "mlp", mlp))), holds=DINOV3 | {"swiglu": (gated,)},
            computes=ERF | {"layer_norm_epsilon": 1e-5, "positions": "rotary"},
        )
        for mlp, gated in ((MLP, False), (SPLIT_GATE, True))
    ),
    Table("timm", ViTConfig, NAFLEX, holds=OF_NAFLEX, computes={"gelu": "tanh", "layer_norm_epsilon": 1e-6, "naflex": True}),
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
