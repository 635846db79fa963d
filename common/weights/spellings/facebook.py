"""The spelling of facebook's own state dicts, where it differs from timm's: DINOv2, DINOv3 and DeiT III.

    facebook   DINOv2 with registers or a gated MLP, whose class token has a position; DeiT III with its layer scale;
               DINOv3, whose bias of keys is masked: it is read and written as zeros

Its DINO, MAE, DeiT and other DINOv2 have timm's names. Neither a MAE's decoder nor a mask token is a parameter of an encoder.

Sources: `dinov2/models/vision_transformer.py` and `dinov2/layers/` of facebookresearch/dinov2; `dinov3/models/vision_transformer.py` and `dinov3/layers/` of facebookresearch/dinov3; `models_v2.py` of
facebookresearch/deit; `models_mae.py` of facebookresearch/mae.
"""

from common.models import ViTConfig
from common.weights.rows import ZEROS, dotted
from common.weights.spellings.timm import (
    ATTENTION,
    BLOCK,
    DENSE,
    DINOV3,
    ERF,
    HOLDS,
    MLP,
    NORMS_AND_OUT,
    OTHERS,
    SCALES,
    fused,
    vit_rows,
)  # fmt: skip
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
QKV = tuple(f"attn/{part}" for part in ("query", "key", "value"))
DINOV3_PARTS = (
    *NORMS_AND_OUT,
    *SCALES,
    (tuple(f"{part}/kernel" for part in QKV), "attn.qkv.weight", "IO -> OI"),
    (("attn/query/bias", ZEROS, "attn/value/bias"), "attn.qkv.bias"),  # the keys' is masked
)
SPLIT_GATE = (*dotted("gate", "w1", DENSE), *dotted("fc1", "w2", DENSE), *dotted("fc2", "w3", DENSE))
BUFFERS = r"^mask_token$|^rope_embed\.periods$|\.bias_mask$|^local_cls_norm\."  # the last, of training's small crops
DINOV2 = HOLDS | {"pooling": ("token",), "cls_position": (True,), "num_classes": (None,), "layer_scale": (True,)}
TABLES = (
    *(
        Table(
            "facebook", ViTConfig, vit_rows((*DINOV3_PARTS, *dotted("mlp", "mlp", mlp)), "storage_tokens"),
            holds=DINOV3 | {"num_classes": (None,), "swiglu": (gated,)}, ignored=BUFFERS,
            computes=ERF | {"layer_norm_epsilon": 1e-5, "positions": "rotary"},
        )
        for mlp, gated in ((MLP, False), (SPLIT_GATE, True))
    ),
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
