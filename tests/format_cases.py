"""Tiny models of every family, and the spellings that hold each."""

import numpy as np

from common.models import (
    BertConfig,
    DecoderConfig,
    MixerConfig,
    ModelConfig,
    ResNetConfig,
    ResNetV1Config,
    TextConfig,
    TwoTowersConfig,
    ViTConfig,
    VqVaeConfig,
)

SMALL = {"patch_size": (8, 8), "width": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64, "num_classes": 5}
SMALL |= {"image_size": (32, 32)}
GOOGLE = ("vision_transformer", "vision_transformer_linen")
VISION = ("big_vision", "big_vision_scan")
HUGGING = ("huggingface", "huggingface_v5")
SIGLIP = ("huggingface", "huggingface_siglip2")
TOWER = SMALL | {"num_classes": None}
PARTS = {"layer_scale": True, "gelu": "erf"}
TEXT = {"vocabulary": 11, "length": 7, "width": 16, "depth": 3, "num_heads": 2, "mlp_dim": 24, "num_classes": 32}
WRITTEN = {name: size for name, size in TEXT.items() if name != "num_classes"}
BERT = TEXT | {"width": 128}  # no other of so few has a number of heads that is known
CLIP_IMAGE = {"stem_bias": False, "pre_norm": True, "head_bias": False, "gelu": "quick", "layer_norm_epsilon": 1e-5}
CLIP_TEXT = {"pooling": "end", "causal": True, "head_bias": False, "gelu": "quick", "layer_norm_epsilon": 1e-5}
CASES: dict[str, tuple[ModelConfig, tuple[str, ...]]] = {  # name -> (configuration, spellings besides ours)
    "bit": (
        ResNetConfig((2, 1), 0.5, 5),
        ("big_transfer", "big_transfer_h5", "big_vision", "timm", "huggingface"),
    ),
    "bit_features": (
        ResNetConfig((2, 1), 0.5, None),
        ("big_transfer", "big_transfer_h5", "big_vision", "timm", "huggingface"),
    ),
    "resnet_v1": (ResNetV1Config((2, 1), 0.5, 5), ("big_vision",)),
    "vit_token": (ViTConfig(**SMALL), (*GOOGLE, "coyo", "timm", *HUGGING, "torchvision")),
    "vit_token_features": (
        ViTConfig(**SMALL | {"num_classes": None}),
        (*GOOGLE, "coyo", "timm", *HUGGING, "torchvision"),
    ),
    "vit_erf_features": (
        ViTConfig(**SMALL | {"num_classes": None, "gelu": "erf"}),
        (*GOOGLE, "coyo", "timm", *HUGGING, "torchvision", "keras_hub"),
    ),
    "vit_pre_logits": (ViTConfig(**SMALL, pre_logits=24), (*GOOGLE, "coyo", "torchvision")),
    "vit_patches_only": (
        ViTConfig(**SMALL, cls_position=False),
        (*GOOGLE, *VISION, "coyo", "timm", *HUGGING, "torchvision"),
    ),
    "vit_token_sincos": (
        ViTConfig(**SMALL, positions="sincos2d", cls_position=False),
        (*GOOGLE, *VISION, "coyo", "timm", *HUGGING, "torchvision"),
    ),
    "vit_gap": (ViTConfig(**SMALL, pooling="gap"), (*GOOGLE, *VISION, "timm")),
    "vit_gap_sincos": (
        ViTConfig(**SMALL, pooling="gap", positions="sincos2d", cls_position=False),
        (*GOOGLE, *VISION, "timm"),
    ),
    "vit_dinov2": (ViTConfig(**TOWER | PARTS, registers=3), ("facebook", *HUGGING)),
    "vit_dinov2_patches": (
        ViTConfig(**TOWER | PARTS, registers=3, cls_position=False),
        ("facebook", "timm", *HUGGING),
    ),
    "vit_dinov2_gated": (
        ViTConfig(**TOWER | PARTS, swiglu=True),
        ("facebook", "timm", *HUGGING),
    ),
    "vit_deit3": (ViTConfig(**SMALL | PARTS, cls_position=False), ("facebook", "timm")),
    "vit_dinov3": (
        ViTConfig(
            **TOWER | PARTS,
            registers=3,
            layer_norm_epsilon=1e-5,
            positions="rotary",
            cls_position=False,
            attn_biases=("query", "value", "out"),
        ),
        ("timm", "facebook", "huggingface"),
    ),
    "vit_dinov2_classes": (ViTConfig(**SMALL | PARTS, pooling="token_gap"), HUGGING),
    "vit_dinov2_registers_classes": (ViTConfig(**SMALL | PARTS, pooling="token_gap", registers=3), HUGGING),
    "vit_gap_norm": (ViTConfig(**SMALL, pooling="gap_norm", gelu="erf"), ("timm",)),
    "vit_mae_fine_tuned": (
        ViTConfig(**SMALL, pooling="gap_norm", registers=1, register_positions=True, gelu="erf"),
        ("timm",),
    ),
    "vit_dinov3_gated": (
        ViTConfig(
            **TOWER | PARTS,
            registers=3,
            layer_norm_epsilon=1e-5,
            positions="rotary",
            cls_position=False,
            attn_biases=("out",),
            swiglu=True,
        ),
        ("timm", "facebook", "huggingface"),
    ),
    "vit_distilled": (ViTConfig(**SMALL, distilled=True, gelu="erf"), ("timm", *HUGGING)),
    "vit_register_of_deit": (
        ViTConfig(**SMALL, registers=1, register_positions=True, gelu="erf"),
        ("timm", *HUGGING),
    ),
    "vit_registers_gap": (
        ViTConfig(**SMALL, pooling="gap", registers=2, register_positions=True, qk_norm=True, attn_biases=("out",)),
        ("timm",),
    ),
    "vit_22b": (
        ViTConfig(
            **SMALL,
            pooling="map",
            parallel=True,
            qk_norm=True,
            attn_biases=("out",),
            patch_norms=("pre", "post"),
            layer_scale=True,
            swiglu=True,
            registers=2,
        ),
        (),
    ),
    "vit_map": (ViTConfig(**SMALL, pooling="map"), (*VISION, "timm")),
    "vit_unpooled": (ViTConfig(**SMALL, pooling="none"), (*GOOGLE, *VISION)),
    "vit_features": (ViTConfig(**SMALL | {"num_classes": None}, pooling="map"), (*VISION, "timm", *SIGLIP)),
    "vit_flexible": (ViTConfig(**SMALL, cls_position=False, kernel_size=(6, 6), position_grid=(3, 3)), VISION),
    "vit_naflex": (ViTConfig(**SMALL, pooling="map", naflex=True), (*VISION, "timm")),
    "vit_naflex_normed": (
        ViTConfig(**SMALL, pooling="gap", cls_position=False, patch_norms=("pre", "post"), naflex=True),
        VISION,
    ),
    "vit_naflex_features": (ViTConfig(**TOWER, pooling="map", naflex=True), (*VISION, "huggingface_siglip2", "timm")),
    "vit_rectangle": (ViTConfig(**SMALL | {"image_size": (32, 48)}), (*GOOGLE, "timm", *HUGGING)),
    "hybrid": (
        ViTConfig(**SMALL | {"patch_size": (1, 1), "image_size": (64, 64)}, backbone=ResNetV1Config((2, 1), 0.5)),
        (*GOOGLE, "timm"),
    ),
    "hybrid_stem": (
        ViTConfig(**SMALL | {"patch_size": (4, 4), "image_size": (64, 64)}, backbone=ResNetV1Config((), 0.5)),
        (*GOOGLE, "timm"),
    ),
    "mixer": (
        MixerConfig((8, 8), 32, 2, 16, 64, 5, image_size=(32, 32), gelu="erf"),
        ("vision_transformer", "big_vision", "timm"),
    ),
    "text": (TextConfig(**TEXT), (*VISION, "huggingface")),
    "text_map": (TextConfig(**TEXT, pooling="map"), VISION),
    "text_clip": (TextConfig(**TEXT, **CLIP_TEXT), ("huggingface",)),
    "bert": (BertConfig(**BERT), ("big_vision",)),
    "bert_features": (BertConfig(**BERT | {"num_classes": None}), ("big_vision", "huggingface")),
    "bert_pooler": (BertConfig(**BERT | {"num_classes": None}, pre_logits=128), ("huggingface",)),
    "vit_clip": (ViTConfig(**SMALL, **CLIP_IMAGE), ("huggingface",)),
    "vit_clip_features": (ViTConfig(**TOWER, **CLIP_IMAGE | {"head_bias": True}), ("huggingface", "timm")),
    "vit_clip_bias": (ViTConfig(**SMALL, **CLIP_IMAGE | {"head_bias": True}), ("timm",)),
    "cappa": (
        DecoderConfig(ViTConfig(**TOWER, pooling="none"), **WRITTEN, masked=True, bias=False),
        ("big_vision", "big_vision_uvim"),
    ),
    "captioner": (
        DecoderConfig(ViTConfig(**TOWER, pooling="none", cls_position=False), **WRITTEN),
        ("big_vision", "big_vision_uvim"),
    ),
    "vqvae": (VqVaeConfig((8, 8), 32, 2, 1, 4, 64, 4, 11, 6, (32, 32)), ("big_vision",)),
    "vqvae_panoptic": (
        VqVaeConfig(
            (8, 8), 32, 1, 2, 4, 64, 5, 11, 6, (32, 32), "panoptic", (5, 3), resizes=False, encoder_context=False
        ),
        ("big_vision",),
    ),
    "vqvae_levels": (VqVaeConfig((8, 8), 32, 1, 1, 4, 64, 4, 12, 2, (32, 32), "depth", (7,), (4, 3)), ("big_vision",)),
    "siglip": (
        TwoTowersConfig(ViTConfig(**TOWER, pooling="map"), TextConfig(**TEXT)),
        (*VISION, *SIGLIP, "open_clip", "keras_hub"),
    ),
    "siglip_naflex": (
        TwoTowersConfig(ViTConfig(**TOWER, pooling="map", naflex=True), TextConfig(**TEXT)),
        (*VISION, "huggingface_siglip2"),
    ),
    "lit": (
        TwoTowersConfig(ViTConfig(**TOWER, cls_position=False), BertConfig(**BERT), False),
        ("big_vision", "vision_transformer_linen"),
    ),
    "lit_token": (TwoTowersConfig(ViTConfig(**TOWER), BertConfig(**BERT), False), ("vision_transformer_linen",)),
    "lit_gap": (
        TwoTowersConfig(ViTConfig(**TOWER, pooling="gap"), TextConfig(**TEXT)),
        (*VISION, "vision_transformer_linen"),
    ),
    "clippo": (TwoTowersConfig(ViTConfig(**SMALL, pooling="map"), None, False), ("big_vision",)),
    "clip": (
        TwoTowersConfig(ViTConfig(**SMALL | {"num_classes": 32}, **CLIP_IMAGE), TextConfig(**TEXT, **CLIP_TEXT), False),
        ("huggingface", "open_clip", "keras_hub"),
    ),
    "towers_bit": (TwoTowersConfig(ResNetConfig((2, 1), 0.5, 32), TextConfig(**TEXT)), ("big_vision",)),
    "mixer_features": (
        MixerConfig((8, 8), 32, 2, 16, 64, None, image_size=(32, 32), gelu="erf"),
        ("vision_transformer", "big_vision", "timm"),
    ),
    "mixer_rectangle": (
        MixerConfig((8, 8), 32, 2, 16, 64, 5, image_size=(32, 48), gelu="erf"),
        ("vision_transformer", "big_vision", "timm"),
    ),
}


def random_arrays(config: ModelConfig, dtype=np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values under every name of a model, norms near the identity."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in config.parameter_shapes().items():
        fan_in = int(np.prod(shape[:-1])) if len(shape) > 1 else 4
        arrays[name] = (rng.standard_normal(shape) / np.sqrt(max(fan_in, 4)) + name.endswith("scale")).astype(dtype)
        if name == "codebook/counts":
            arrays[name] = 1 + np.abs(arrays[name])
    return arrays
