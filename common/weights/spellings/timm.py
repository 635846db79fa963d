"""The spelling of timm: PyTorch names in safetensors, with a `config.json` in the layout of its hub.

Sources: `models/vision_transformer.py`, `vision_transformer_hybrid.py`, `mlp_mixer.py`, `resnetv2.py`, `_hub.py` of
huggingface/pytorch-image-models.
"""

import dataclasses
import re
from typing import Any

from common.models import (
    ARCHITECTURES,
    MixerConfig,
    ModelConfig,
    ResNetConfig,
    ResNetV1Config,
    ViTConfig,
    architectures,
)
from common.models.cards import Card
from common.system.errors import UserError
from common.weights import processors
from common.weights.rows import dotted
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
HOLDS = {"pooling": ("token", "gap", "map"), "positions": ("learned",), "pre_logits": (None,)}
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
    *(
        Table(
            "timm", ViTConfig, VIT,
            children=(prefixed(backbone, "backbone", "patch_embed.backbone."),), holds=HOLDS, computes=ERF,
        )
        for backbone in BACKBONES
    ),
    Table("timm", MixerConfig, MIXER, computes=ERF),
)  # fmt: skip

TANH_ARCHITECTURES = r"vit_((base_patch32|so400m_patch16|giantopt_patch16)_siglip|large_patch16_siglip(_gap)?_512)"
HEADS = {"vit_base_patch16_gap_224": 16}  # architectures of which neither arrays nor the published sizes tell them
ACTIVATIONS = {"gelu": {"gelu": "erf"}, "gelu_erf": {"gelu": "erf"}, "gelu_tanh": {"gelu": "tanh"}}
# Arguments of timm's models that arrays tell, that are read below, or that change nothing once a model is trained.
KNOWN = {
    "num_heads", "img_size", "act_layer", "global_pool", "num_classes", "in_chans", "patch_size", "embed_dim", "depth",
    "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm", "scale_attn_norm", "scale_mlp_norm", "init_values", "class_token",
    "no_embed_class", "reg_tokens", "pre_norm", "final_norm", "fc_norm", "pool_include_prefix", "dynamic_img_size",
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init",
    "fix_init", "layers", "channels", "width_factor", "stem_chs", "num_blocks", "nlhb", "zero_init_last", "device",
    "dtype", "features_only", "exportable", "scriptable", "cache_dir",
}  # fmt: skip
# Others change what is computed of the same arrays: what this project computes.
COMPUTED = {
    "pos_embed": ("learn",), "dynamic_img_pad": (False,), "norm_layer": (None, "layernorm", "layernormfp32"),
    "embed_norm_layer": (None,), "embed_layer": (None,), "block_fn": (None, "Block"), "attn_layer": (None, "Attention", "attn"),
    "mlp_layer": (None, "Mlp", "mlp"), "block_layer": (None,), "conv_layer": (None,), "output_stride": (32,),
    "stem_type": ("fixed",), "avg_down": (False,), "preact": (True,), "basic": (False,), "bottle_ratio": (0.25,),
    "stem_norm": (False,),
}  # fmt: skip
POOLING = {"token": "token", "avg": "gap", "map": "map"}
POOLED = {ours: theirs for theirs, ours in POOLING.items()}
HYBRIDS = {  # num_units -> the architecture whose backbone it is
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a configuration, and `class_names`, that timm's config.json states. UserError for what is not held."""
    arguments = {**config, **config.get("model_args", {})}
    check_options(config.get("model_args", {}), KNOWN, COMPUTED)
    architecture = str(config.get("architecture", ""))
    known = {"relu": {}} if architecture.startswith("resnetv2") else ACTIVATIONS
    activation = arguments.get("act_layer") or usual_activation(architecture)
    if activation not in known:
        raise UserError(f"The config.json names the activation {activation!r}, expected {' or '.join(known)}.")
    facts = dict(known[activation])
    pooling = arguments.get("global_pool")
    if pooling is not None:
        if pooling not in POOLING:
            raise UserError(f"The config.json says global_pool {pooling!r}, expected one of {', '.join(POOLING)}.")
        facts["pooling"] = POOLING[pooling]
    if heads := arguments.get("num_heads") or HEADS.get(architecture):
        facts["num_heads"] = heads
    size = arguments.get("img_size") or config.get("pretrained_cfg", {}).get("input_size")
    if size:
        facts["image_size"] = processors.pair(size)
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    if names:
        facts["class_names"] = names if isinstance(names, list) else in_order(names)
    return facts


def check_options(options: dict[str, Any], known: set[str], computed: dict[str, tuple]) -> None:
    """Raise UserError for an option that makes another function of the same arrays, and for one that is not known."""
    for name, value in options.items():
        if name not in known and name not in computed:
            raise UserError(
                f"The config.json says {name} {value!r}, of which this project does not know what it changes; remove it "
                "where it changes nothing, or choose another file."
            )
        if name in computed and value not in computed[name]:
            raise UserError(
                f"The config.json says {name} {value!r}, and this project's models compute with "
                f"{' or '.join(map(repr, computed[name]))} only; choose another file."
            )


def in_order(names: dict[str, str]) -> list[str]:
    """Class names of {number: name}. ValueError where a number is missing."""
    numbers = sorted(names, key=int)
    if [int(number) for number in numbers] != list(range(len(numbers))):
        raise ValueError(f"class names have the numbers {', '.join(map(str, numbers[:4]))}, ...")
    return [names[number] for number in numbers]


def usual_activation(architecture: str) -> str:
    """What an architecture of timm computes with where its config.json does not say (as in timm 1.0.31)."""
    if architecture.startswith("resnetv2"):
        return "relu"
    return "gelu_tanh" if re.match(TANH_ARCHITECTURES, architecture) else "gelu"


LAYERS = {  # what a config.json calls the layers that other images and classes change
    ResNetConfig: {"first_conv": "stem.conv", "classifier": "head.fc"},
    ViTConfig: {"first_conv": "patch_embed.proj", "classifier": "head"},
    MixerConfig: {"first_conv": "patch_embed.proj", "classifier": "head"},
}


def write_config(config: ModelConfig, card: Card) -> tuple[dict[str, Any], list[str]]:
    """({file: what it says}, notes on what timm does otherwise): `create_model("local-dir:FOLDER", pretrained=True)` and
    `resolve_model_data_config` read it.
    """
    architecture, arguments = describe(config)
    (height, width), notes = processors.image_size(config, card)
    prepared, more = processors.write_timm(card.preprocessing, width)
    facts = {"architecture": architecture} if architecture else {}
    facts |= {"num_classes": config.num_classes or 0, "num_features": config.width}
    facts |= {"model_args": arguments} if arguments else {}
    facts |= {"label_names": list(card.class_names)} if card.class_names else {}
    facts["pretrained_cfg"] = {
        "custom_load": False,
        "input_size": [3, height, width],
        "fixed_input_size": bool(config.image_size),
        **prepared,
        "num_classes": config.num_classes or 0,
        **LAYERS[type(config)],
    }
    return {"config.json": facts}, notes + more


def describe(config: ModelConfig) -> tuple[str | None, dict[str, Any]]:
    """(architecture of timm, changed arguments) that make a model of `config`; None where timm has none so built."""
    return DESCRIBED[type(config)](config)


def describe_bit(config: ResNetConfig) -> tuple[str | None, dict[str, Any]]:
    """See `describe`; every size has a name."""
    sizes = (config.num_units, config.width_factor)
    name = next((name for name, row in ARCHITECTURES.items() if row == sizes and name[:3] != "R26"), None)
    return name and f"resnetv2_{name[1:]}_bit", {}


def describe_mixer(config: MixerConfig) -> tuple[str | None, dict[str, Any]]:
    """See `describe`; every size has a name."""
    sizes = dataclasses.replace(config, num_classes=1000, image_size=(224, 224), gelu="tanh")
    name = next((name for name, row in architectures().items() if row == sizes and "H" not in name), None)
    return name and f"{name.lower().replace('-', '_').replace('/', '')}_224", {"img_size": list(config.image_size)}


def describe_vit(config: ViTConfig) -> tuple[str | None, dict[str, Any]]:
    """See `describe`; the arguments say the sizes."""
    if config.backbone:
        architecture = HYBRIDS.get(config.backbone.num_units) if config.backbone.width_factor == 1 else None
    else:
        architecture = "vit_base_patch16_224"
    return architecture, {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size) if not config.backbone else config.patch_size[0],
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_dim / config.width,
        "act_layer": "gelu" if config.gelu == "erf" else "gelu_tanh",
        "global_pool": POOLED[config.pooling],
        "class_token": config.pooling == "token",
        "no_embed_class": not config.cls_position,
        "fc_norm": False,
    }


DESCRIBED = {ResNetConfig: describe_bit, MixerConfig: describe_mixer, ViTConfig: describe_vit}
