"""What Hugging Face's `config.json` says of ViT, the encoder of ViTMAE, DeiT, DINOv2 and DINOv3: read, and written.

Sources: `models/{vit,vit_mae,deit,dinov2,dinov2_with_registers,dinov3_vit}/configuration_*.py` of huggingface/transformers.
"""

from typing import Any

from common.models import ViTConfig
from common.system.errors import UserError
from common.weights import processors
from common.weights.huggingface_towers import described, gelu_of

VIT = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12, "image_size": 224, "num_channels": 3}
DEFAULTS = {  # model_type -> what its class takes for absent keys
    "vit": VIT,
    "vit_mae": VIT,
    "deit": VIT,
    "dinov2": VIT | {"layer_norm_eps": 1e-6},
    "dinov2_with_registers": VIT | {"layer_norm_eps": 1e-6},
    "dinov3_vit": VIT | {"layer_norm_eps": 1e-5, "num_attention_heads": 6, "rope_theta": 100.0, "mlp_bias": True},
}
RESIZED = {"dinov2": "dinov2", "dinov2_with_registers": "dinov2_registers"}  # as the originals do, not transformers
FIXED = {"num_channels": 3, "rope_theta": 100.0, "mlp_bias": True}  # what must be so to be a model of this project


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a configuration that a config.json states. UserError for what is not held."""
    told = DEFAULTS[config["model_type"]] | config
    for name, value in FIXED.items():
        if told.get(name, value) != value:
            raise UserError(f"The config.json has {name} {told[name]!r}, expected {value!r}; choose another file.")
    gated = told.get("use_gated_mlp", False)
    if gated and told["hidden_act"] != "silu":
        raise UserError(f"The config.json has a gated MLP with hidden_act {told['hidden_act']!r}, expected 'silu'.")
    return {
        "gelu": "erf" if gated else gelu_of(told["hidden_act"]),
        "layer_norm_epsilon": told["layer_norm_eps"],
        "num_heads": told["num_attention_heads"],
        "image_size": processors.pair(told["image_size"]),
        **{"position_resize": way for kind, way in RESIZED.items() if kind == config["model_type"]},
    }


# --- written


def describe(config: ViTConfig, kind: str) -> dict[str, Any]:
    """The config.json of a ViT, but for its classes; `kind`: Model, or ForImageClassification."""
    model_type, name, more = type_of(config)
    if config.distilled:
        kind += "WithTeacher"
    return {
        "architectures": [f"{name}{kind}"],
        "model_type": model_type,
        **described(config),
        "image_size": single(config.image_size),
        "patch_size": single(config.patch_size),
        "num_channels": 3,
        **more,
    }


def type_of(config: ViTConfig) -> tuple[str, str, dict[str, Any]]:
    """(model_type, the beginning of the class, what only such models state)."""
    qkv = {"qkv_bias": "query" in config.attn_biases}
    if config.rotary:
        return "dinov3_vit", "DINOv3ViT", describe_dinov3(config)
    if config.layer_scale:
        ratio = {"mlp_ratio": mlp_ratio(config), "use_swiglu_ffn": config.swiglu}
        if config.registers:
            return (
                "dinov2_with_registers",
                "Dinov2WithRegisters",
                qkv | ratio | {"num_register_tokens": config.registers},
            )
        return "dinov2", "Dinov2", qkv | ratio
    return (*(("deit", "DeiT") if config.num_prefix == 2 else ("vit", "ViT")), qkv)


def mlp_ratio(config: ViTConfig) -> int:
    """The whole ratio of which DINOv2's class makes the width of the MLP. UserError where none does."""
    for ratio in range(1, 1 + 2 * config.mlp_dim // config.width + 1):
        wide = config.width * ratio
        if config.mlp_dim == ((int(wide * 2 / 3) + 7) // 8 * 8 if config.swiglu else wide):
            return ratio
    raise UserError(
        f"Dinov2Model has no MLP {config.mlp_dim} wide in a model {config.width} wide; choose another spelling."
    )


def describe_dinov3(config: ViTConfig) -> dict[str, Any]:
    """What is DINOv3's alone."""
    parts = {"query": "query", "key": "key", "value": "value", "out": "proj"}
    facts = {f"{theirs}_bias": ours in config.attn_biases for ours, theirs in parts.items()}
    facts |= {"num_register_tokens": config.registers, "rope_theta": 100.0, "use_gated_mlp": config.swiglu}
    return facts | ({"hidden_act": "silu"} if config.swiglu else {})


def single(size: tuple[int, int]) -> int | list[int]:
    """One number for a square."""
    return size[0] if size[0] == size[1] else list(size)
