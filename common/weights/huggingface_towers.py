"""What Hugging Face's `config.json` says of SigLIP, CLIP, their towers and BERT: read, and written.

Sources: `models/{siglip,siglip2,clip,bert}/configuration_*.py` of huggingface/transformers.
"""

import math
from typing import Any

from common.models import BertConfig, ModelConfig, TextConfig, TwoTowersConfig, ViTConfig
from common.models.cards import Card
from common.system.errors import UserError
from common.weights import processors

ACTIVATIONS = {
    "gelu": "erf", "gelu_python": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "quick_gelu": "quick",
}  # fmt: skip
ACTIVATED = {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_attention_heads": 12}
CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_attention_heads": 12}
DEFAULTS = {  # model_type -> what its class takes for absent keys
    "siglip_vision_model": SIGLIP | {"image_size": 224},
    "siglip_text_model": SIGLIP,
    "siglip2_vision_model": SIGLIP | {"num_patches": 256, "patch_size": 16},
    "siglip2_text_model": SIGLIP,
    "clip_vision_model": CLIP | {"image_size": 224},
    "clip_text_model": CLIP | {"num_attention_heads": 8, "eos_token_id": 49_407, "vocab_size": 49_408},
    "bert": {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12},
}
FIXED = {  # key -> what it must say where it stands, to be a model of this project
    "vision_use_head": (True,), "is_decoder": (False,), "position_embedding_type": (None, "absolute"), "num_channels": (3,),
}  # fmt: skip
WHOLE = ("siglip", "siglip2", "clip")
TYPES = (*WHOLE, *DEFAULTS)


def read_towers(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of the configuration that a config.json states, of an image-text model below `image` and `text`.

    UserError for what is not held.
    """
    kind = config["model_type"]
    if kind not in WHOLE:
        return read_tower(config, kind)
    return {
        ours: read_tower(config.get(f"{theirs}_config") or {}, f"{kind}_{theirs}_model")
        for ours, theirs in (("image", "vision"), ("text", "text"))
    }


def read_tower(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """The same of one tower of a `kind`. UserError for what is not held."""
    for name, allowed in FIXED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise UserError(
                f"The config.json has {name} {config[name]!r}, expected {allowed[0]!r}; choose another file."
            )
    told = DEFAULTS[kind] | config
    facts = {
        "gelu": gelu_of(told["hidden_act"]),
        "layer_norm_epsilon": told["layer_norm_eps"],
        "num_heads": told["num_attention_heads"],
    }
    if kind == "bert" and told.get("pad_token_id", 0) != 0:
        raise UserError(
            f"The config.json has pad_token_id {told['pad_token_id']!r}, expected 0, which BERT here masks."
        )
    if kind == "clip_text_model" and told["eos_token_id"] not in (
        2,
        told["vocab_size"] - 1,
    ):  # 2: a mistake of old files
        raise UserError(
            f"The config.json has eos_token_id {told['eos_token_id']}, expected {told['vocab_size'] - 1}, the greatest, "
            "whose features are a text's; choose another file."
        )
    if kind.endswith("text_model"):
        facts["pooling"] = "end" if kind.startswith("clip") else "last"
    elif "num_patches" in told:
        side = math.isqrt(told["num_patches"])
        facts["image_size"] = tuple(side * patch for patch in processors.pair(told["patch_size"]))
        facts["naflex"] = True
    elif kind != "bert":
        facts["image_size"] = processors.pair(told["image_size"])
    return facts


def gelu_of(activation: str) -> str:
    """The GELU that a `hidden_act` names. UserError for another function."""
    if activation not in ACTIVATIONS:
        raise UserError(f"The config.json has hidden_act {activation!r}, expected one of {sorted(ACTIVATIONS)}.")
    return ACTIVATIONS[activation]


# --- written


def describe_towers(config: ModelConfig, card: Card, siglip2: bool) -> dict[str, Any]:
    """The config.json of an image-text model, of a tower, or of a BERT; of `Siglip2Model` where it is to be one."""
    if isinstance(config, BertConfig):
        return describe_bert(config)
    if isinstance(config, ViTConfig | TextConfig):
        return describe_tower(config, card, siglip2)
    image, text = (describe_tower(tower, card, siglip2) for tower in (config.image, config.text))
    kind, name = family(config.image, siglip2)
    facts = {"architectures": [f"{name}Model"], "model_type": kind}
    facts |= {"projection_dim": config.width} if kind == "clip" else {}
    return facts | {"vision_config": without_class(image), "text_config": without_class(text)}


def family(config: ViTConfig | TextConfig, siglip2: bool) -> tuple[str, str]:
    """(the beginning of model_type, of the class) of a tower."""
    if config.causal or getattr(config, "pre_norm", False):
        return "clip", "CLIP"
    return ("siglip2", "Siglip2") if siglip2 else ("siglip", "Siglip")


def without_class(facts: dict[str, Any]) -> dict[str, Any]:
    """The part of a tower in the config.json of both."""
    return {name: value for name, value in facts.items() if name != "architectures"}


def describe_tower(config: ViTConfig | TextConfig, card: Card, siglip2: bool) -> dict[str, Any]:
    """The facts of one tower."""
    (kind, name), sees = family(config, siglip2), isinstance(config, ViTConfig)
    projects = "WithProjection" if kind == "clip" and config.num_classes else ""
    facts = {
        "architectures": [f"{name}{'Vision' if sees else 'Text'}Model{projects}"],
        "model_type": f"{kind}_{'vision' if sees else 'text'}_model",
        **described(config),
    }
    if kind == "clip" and config.num_classes:
        facts["projection_dim"] = config.num_classes
    if not sees:
        return facts | describe_texts(config, card, kind)
    facts |= {"num_channels": 3, "patch_size": config.patch_size[0]}
    facts |= {} if kind == "clip" else {"vision_use_head": True}
    return facts | (
        {"num_patches": math.prod(config.grid)} if kind == "siglip2" else {"image_size": config.image_size[0]}
    )


def describe_texts(config: TextConfig, card: Card, kind: str) -> dict[str, Any]:
    """What is a text tower's alone."""
    facts = {"vocab_size": config.vocabulary, "max_position_embeddings": config.length}
    if kind == "clip":
        return facts | {"bos_token_id": config.vocabulary - 2, "eos_token_id": config.vocabulary - 1}
    padding = {"pad_token_id": card.text.padding} if card.text else {}
    return facts | {"projection_size": config.num_classes, "bos_token_id": None, "eos_token_id": 1, **padding}


def describe_bert(config: BertConfig) -> dict[str, Any]:
    """The config.json of a BERT. UserError for a pooler of another width than its own."""
    if config.pre_logits not in (None, config.width):
        raise UserError(
            f"Hugging Face's BERT has a pooler of {config.width}, not {config.pre_logits}; choose another spelling."
        )
    facts = {"vocab_size": config.vocabulary, "max_position_embeddings": config.length, "pad_token_id": 0}
    facts |= {"type_vocab_size": config.segments, "position_embedding_type": "absolute"}
    return {"architectures": ["BertModel"], "model_type": "bert", **described(config), **facts}


def described(config: ModelConfig) -> dict[str, Any]:
    """What is every transformer's."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": ACTIVATED[config.gelu],
        "layer_norm_eps": config.layer_norm_epsilon,
    }


def is_tower(config: ModelConfig) -> bool:
    """Whether a model is one of those of this module, and no ViT that classifies."""
    if isinstance(config, ViTConfig):
        return config.pooling == "map" or config.pre_norm
    return isinstance(config, BertConfig | TextConfig | TwoTowersConfig)
