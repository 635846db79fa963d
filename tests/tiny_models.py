"""A tiny model of every family, with random parameters, for tests of what is true of all of them."""

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

RESNET = {"num_units": (1, 1), "width_factor": 0.5}
VIT = {"patch_size": (8, 8), "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "image_size": (32, 32)}
CONFIGS = {
    "bit": ResNetConfig(**RESNET, num_classes=5),
    "resnet_v1": ResNetV1Config(**RESNET, num_classes=5),
    "vit_token": ViTConfig(**VIT, num_classes=5),
    "vit_gap": ViTConfig(**VIT, num_classes=5, pooling="gap", cls_position=False, positions="sincos2d"),
    "vit_map": ViTConfig(**VIT, num_classes=5, pooling="map", cls_position=False, pre_logits=8),
    "vit_flexible": ViTConfig(**VIT, num_classes=5, cls_position=False, kernel_size=(6, 6), position_grid=(3, 3)),
    "vit_parts": ViTConfig(
        **VIT, num_classes=5, distilled=True, registers=3, layer_scale=True, swiglu=True, patch_norms=("pre", "post"),
    ),
    "vit_rotary": ViTConfig(
        **VIT, num_classes=5, pooling="gap", positions="rotary", registers=2, qk_norm=True, parallel=True,
        attn_biases=("query", "value", "out"),
    ),
    "hybrid": ViTConfig(**VIT | {"patch_size": (1, 1), "depth": 1}, num_classes=5, backbone=ResNetV1Config(**RESNET)),
    "mixer": MixerConfig((8, 8), 16, 2, 8, 32, 5, image_size=(32, 32)),
}  # fmt: skip
TEXT = {"vocabulary": 11, "length": 7, "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24, "num_classes": 16}
TEXTS = {  # models that take texts, and what they are made of
    "text": TextConfig(**TEXT),
    "bert": BertConfig(**TEXT),
    "siglip": TwoTowersConfig(ViTConfig(**VIT, num_classes=None, pooling="map"), TextConfig(**TEXT)),
    "lit": TwoTowersConfig(ResNetConfig(**RESNET, num_classes=16), BertConfig(**TEXT), False),
    "clip": TwoTowersConfig(
        ViTConfig(**VIT, num_classes=16, gelu="quick", stem_bias=False, pre_norm=True, head_bias=False),
        TextConfig(**TEXT, gelu="quick", pooling="end", causal=True, head_bias=False),
        False,
    ),
    "clippo": TwoTowersConfig(ViTConfig(**VIT, num_classes=16, pooling="map"), None, False),
}
WRITTEN = {name: size for name, size in TEXT.items() if name != "num_classes"}
WRITERS = {  # models that write texts
    "cappa": DecoderConfig(
        ViTConfig(**VIT, num_classes=None, pooling="none", cls_position=False), **WRITTEN, masked=True, bias=False
    ),
}
MAP_MODELS = {  # models that compress maps
    "vqvae": VqVaeConfig((8, 8), 16, 2, 1, 2, 24, 4, 11, 6, (32, 32)),
    "fsq": VqVaeConfig((8, 8), 16, 1, 2, 2, 24, 5, 12, 2, (32, 32), "depth", (7,), (4, 3), resizes=False),
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)


def random_arrays(config: ModelConfig, seed: int = 1) -> dict[str, np.ndarray]:
    """Parameters none of which is 0, so that every layer shows in the logits."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(0, 0.3, shape).astype("f4") for name, shape in config.parameter_shapes().items()}
    return found | {name: 0.1 + np.abs(found[name]) for name in found if name == "codebook/counts"}
