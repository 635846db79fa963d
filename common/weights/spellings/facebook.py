"""The spelling of facebook's own state dicts, where it differs from timm's: DINOv2 and DeiT III.

    facebook   DINOv2 with registers or a gated MLP, whose class token has a position; DeiT III with its layer scale

Its DINO, MAE, DeiT and other DINOv2 have timm's names. Neither a MAE's decoder nor a mask token is a parameter of an encoder.

Sources: `dinov2/models/vision_transformer.py` and `dinov2/layers/` of facebookresearch/dinov2; `models_v2.py` of
facebookresearch/deit; `models_mae.py` of facebookresearch/mae.
"""

from common.models import ViTConfig
from common.weights.rows import dotted
from common.weights.spellings.timm import ATTENTION, BLOCK, DENSE, ERF, HOLDS, MLP, OTHERS, SCALES, fused, vit_rows
from common.weights.table import AtLeast, Table

GATED_BLOCK = (
    *ATTENTION,
    *SCALES,
    *fused(("mlp/gate", "mlp/fc1"), "mlp.w12"),
    *dotted("mlp/fc2", "mlp.w3", DENSE),
)
DEIT3_BLOCK = (
    *ATTENTION,
    ("layer_scale1/scale", "gamma_1"),
    ("layer_scale2/scale", "gamma_2"),
    *dotted("mlp", "mlp", MLP),
)
DINOV2 = HOLDS | {"pooling": ("token",), "cls_position": (True,), "num_classes": (None,), "layer_scale": (True,)}
TABLES = (
    Table("facebook", ViTConfig, vit_rows(BLOCK, "register_tokens"), holds=DINOV2 | {"registers": AtLeast(1)}, computes=ERF | {"position_resize": "dinov2_registers"}, ignored=OTHERS),
    Table(
        "facebook", ViTConfig, vit_rows(GATED_BLOCK, "register_tokens"), holds=DINOV2 | {"registers": AtLeast(0), "swiglu": (True,)},
        computes=ERF | {"position_resize": "dinov2"}, ignored=OTHERS,
    ),
    Table(
        "facebook", ViTConfig, vit_rows(DEIT3_BLOCK),
        holds=HOLDS | {"pooling": ("token",), "cls_position": (False,), "layer_scale": (True,), "has_head": (True,)}, computes=ERF,
        twin="timm's vit_*_rope_ape_*, whose queries and keys turn",
    ),
)  # fmt: skip
