"""The `config.json` beside timm's weights, in the layout of its hub: read, and written.

Sources: `models/vision_transformer.py`, `vision_transformer_hybrid.py`, `mlp_mixer.py`, `resnetv2.py`, `_hub.py` of
huggingface/pytorch-image-models.
"""

import dataclasses
import re
from typing import Any

from common.models import ARCHITECTURES, MixerConfig, ModelConfig, ResNetConfig, ViTConfig, architectures
from common.models.cards import Card
from common.system.errors import UserError
from common.weights import processors

TANH_ARCHITECTURES = r"vit_((base_patch32|so400m_patch16|giantopt_patch16)_siglip|large_patch16_siglip(_gap)?_512)"
OTHER_ROTARY = r"eva|vit_pe_|.*_rope(_|$)"  # and no part of a file says so
NAFLEX = "naflexvit_"  # how the names of these architectures begin
HEADS = {"vit_base_patch16_gap_224": 16}  # architectures whose heads follow from neither arrays nor published sizes
ACTIVATIONS = {
    "gelu": {"gelu": "erf"}, "gelu_erf": {"gelu": "erf"}, "gelu_tanh": {"gelu": "tanh"}, "quick_gelu": {"gelu": "quick"},
}  # fmt: skip
ACTIVATED = {"erf": "gelu", "tanh": "gelu_tanh", "quick": "quick_gelu"}
# Arguments of timm's models that follow from arrays, are read below, or change nothing once a model is trained.
KNOWN = {
    "num_heads", "img_size", "act_layer", "global_pool", "num_classes", "in_chans", "patch_size", "embed_dim", "depth",
    "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm", "scale_attn_norm", "scale_mlp_norm", "init_values", "class_token",
    "no_embed_class", "reg_tokens", "pre_norm", "final_norm", "fc_norm", "pool_include_prefix", "dynamic_img_size",
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init",
    "fix_init", "layers", "channels", "width_factor", "stem_chs", "num_blocks", "nlhb", "zero_init_last", "device",
    "dtype", "features_only", "exportable", "scriptable", "cache_dir", "num_reg_tokens", "qkv_fused",
    "pos_embed_grid_size", "swiglu_mlp", "swiglu_align_to",
}  # fmt: skip
# Others change what is computed of the same arrays: what this project computes.
COMPUTED = {
    "pos_embed": ("learn", "learned"), "dynamic_img_pad": (False,), "norm_layer": (None, "layernorm", "layernormfp32"),
    "embed_norm_layer": (None,), "embed_layer": (None,), "block_fn": (None, "Block"), "attn_layer": (None, "Attention", "attn"),
    "mlp_layer": (None, "Mlp", "mlp"), "block_layer": (None,), "conv_layer": (None,), "output_stride": (32,),
    "stem_type": ("fixed",), "avg_down": (False,), "preact": (True,), "basic": (False,), "bottle_ratio": (0.25,),
    "stem_norm": (False,), "rope_type": ("dinov3",), "rope_temperature": (100,), "rope_rotate_half": (True,),
    "use_rot_pos_emb": (True,), "use_abs_pos_emb": (False,), "use_fc_norm": (False,),
    "pos_embed_interp_mode": ("bilinear",), "pos_embed_antialias": (True,), "pos_embed_align_corners": (False,),
    "pos_embed_ar_preserving": (False,), "pos_embed_use_grid_sample": (False,), "embed_proj_type": ("linear",),
    "patchify_channels_last": (True,), "attn_type": ("standard",), "input_norm_layer": (None,),
}  # fmt: skip
FINE_TUNED_TOKEN = "gap_norm", 1, True  # pooling, registers and their positions: a class token that nothing pools
POOLING = {"token": "token", "avg": "gap", "map": "map"}
POOLED = {ours: theirs for theirs, ours in POOLING.items()} | {"gap_norm": "avg"}
HYBRIDS = {  # num_units -> the architecture whose backbone it is
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a configuration, and `class_names`, that timm's config.json states. UserError for what is not held."""
    arguments = {**config, **config.get("model_args", {})}
    architecture = str(config.get("architecture", ""))
    check_options(usual_options(architecture) | config.get("model_args", {}), KNOWN, COMPUTED)
    if re.match(OTHER_ROTARY, architecture):
        raise UserError(
            f"The config.json names the architecture {architecture}, whose rotary positions are others than DINOv3's, and of "
            "which arrays tell nothing; choose another file."
        )
    known = {"relu": {}} if architecture.startswith("resnetv2") else ACTIVATIONS
    activation = arguments.get("act_layer") or usual_activation(architecture)
    if activation not in known:
        raise UserError(f"The config.json names the activation {activation!r}, expected {' or '.join(known)}.")
    facts = dict(known[activation]) | ({"layer_norm_epsilon": 1e-5} if "_clip_" in architecture else {})
    pooling = arguments.get("global_pool")
    if pooling is not None:
        if pooling not in POOLING:
            raise UserError(f"The config.json has global_pool {pooling!r}, expected one of {', '.join(POOLING)}.")
        facts["pooling"] = POOLING[pooling]
    if heads := arguments.get("num_heads") or HEADS.get(architecture):
        facts["num_heads"] = heads
    size = arguments.get("img_size") or config.get("pretrained_cfg", {}).get("input_size")
    if size and not architecture.startswith(NAFLEX):  # whose positions are of any other size
        facts["image_size"] = processors.pair(size)
    if "_dinov2" in architecture:
        facts["position_resize"] = "dinov2_registers" if "_reg" in architecture else "dinov2"
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    if names:
        facts["class_names"] = names if isinstance(names, list) else in_order(names)
    return facts


def check_options(
    options: dict[str, Any], known: set[str], computed: dict[str, tuple], file: str = "config.json"
) -> None:
    """Raise UserError for an option that makes another function of the same arrays, and for one that is not known."""
    for name, value in options.items():
        if name not in known and name not in computed:
            raise UserError(
                f"The {file} has {name} {value!r}, of which this project does not know what it changes; remove it "
                "where it changes nothing, or choose another file."
            )
        if name in computed and value not in computed[name]:
            raise UserError(
                f"The {file} has {name} {value!r}, and this project's models compute with "
                f"{' or '.join(map(repr, computed[name]))} only; choose another file."
            )


def in_order(names: dict[str, str]) -> list[str]:
    """Class names of {number: name}. ValueError where a number is missing."""
    numbers = sorted(names, key=int)
    if [int(number) for number in numbers] != list(range(len(numbers))):
        raise ValueError(f"class names have the numbers {', '.join(map(str, numbers[:4]))}, ...")
    return [names[number] for number in numbers]


def usual_options(architecture: str) -> dict[str, Any]:
    """Options of an architecture that its config.json need not state: how a NaFlex resizes its positions."""
    if not architecture.startswith(NAFLEX):
        return {}
    return {"pos_embed_interp_mode": "bilinear" if architecture.endswith("_siglip") else "bicubic"}


def usual_activation(architecture: str) -> str:
    """The defaults of an architecture of timm, for keys that its config.json lacks (as in timm 1.0.31)."""
    if architecture.startswith("resnetv2"):
        return "relu"
    if architecture.startswith(NAFLEX) and architecture.endswith("_siglip"):
        return "gelu_tanh"
    if "_quickgelu_" in architecture:
        return "quick_gelu"
    return "gelu_tanh" if re.match(TANH_ARCHITECTURES, architecture) else "gelu"


LAYERS = {  # what a config.json calls the layers that other images and classes change
    ResNetConfig: {"first_conv": "stem.conv", "classifier": "head.fc"},
    ViTConfig: {"first_conv": "patch_embed.proj", "classifier": "head"},
    MixerConfig: {"first_conv": "patch_embed.proj", "classifier": "head"},
}


def write_config(config: ModelConfig, card: Card) -> tuple[dict[str, Any], list[str]]:
    """({file: contents}, notes on what timm does otherwise): `create_model("local-dir:FOLDER", pretrained=True)` and
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
        **({"first_conv": "embeds.proj"} if config.naflex else {}),
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
    if config.rotary or config.swiglu or config.distilled:
        return describe_modern(config)
    if config.naflex:
        return describe_naflex(config)
    if config.backbone:
        architecture = HYBRIDS.get(config.backbone.num_units) if config.backbone.width_factor == 1 else None
    else:
        clip = "clip_quickgelu_" if config.gelu == "quick" else "clip_"
        architecture = f"vit_base_patch16_{clip if config.pre_norm else ''}224"
    return architecture, arguments(config) | {"act_layer": ACTIVATED[config.gelu]} | of_vits(config)


def describe_modern(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """See `describe`, of a DINOv3, of one with a gated MLP, or of a distilled one."""
    if config.rotary:
        own = {"num_reg_tokens": config.registers, "qkv_bias": "query" in config.attn_biases}
        own |= {"swiglu_align_to": 1} if config.mlp_dim % 8 else {}
        return f"vit_small_{'plus_' if config.swiglu else ''}patch16_dinov3", arguments(config) | own
    if config.swiglu:  # its first layer holds both
        return "vit_giant_patch14_dinov2", arguments(config) | of_vits(config) | {
            "mlp_ratio": 2 * config.mlp_dim / config.width
        }
    return "deit_base_distilled_patch16_224", arguments(config) | {"act_layer": ACTIVATED[config.gelu]}


def describe_naflex(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    """See `describe`, of the image tower of SigLIP 2's NaFlex."""
    sizes = {name: value for name, value in arguments(config).items() if name != "img_size"}
    parts = {"qk_norm": config.qk_norm, "init_values": 1e-5 if config.layer_scale else None}
    sizes |= {"pos_embed_grid_size": list(config.grid), "act_layer": ACTIVATED[config.gelu]}
    return f"{NAFLEX}base_patch16_siglip", sizes | {name: value for name, value in parts.items() if value}


def arguments(config: ViTConfig) -> dict[str, Any]:
    """The sizes of every ViT."""
    return {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size) if not config.backbone else config.patch_size[0],
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_dim / config.width,
        "global_pool": POOLED[config.pooling],
    }


def of_vits(config: ViTConfig) -> dict[str, Any]:
    """What a `VisionTransformer` may have."""
    idle = FINE_TUNED_TOKEN == (config.pooling, config.registers, config.register_positions)
    facts = {"class_token": config.has_cls or idle, "fc_norm": not config.norm_first}
    facts["no_embed_class"] = not (
        config.cls_position if config.num_cls else config.register_positions or not config.registers
    )
    parts = {
        "reg_tokens": config.registers * (not idle),
        "qk_norm": config.qk_norm,
        "init_values": 1e-5 if config.layer_scale else None,
    }
    parts |= {} if "query" in config.attn_biases else {"qkv_bias": False}
    return facts | {name: value for name, value in parts.items() if value not in (0, False, None) or name == "qkv_bias"}


DESCRIBED = {ResNetConfig: describe_bit, MixerConfig: describe_mixer, ViTConfig: describe_vit}
