"""The `open_clip_config.json` beside open_clip's weights: read, and written.

Sources: `model.py`, `transform.py`, `factory.py` and `model_configs/` of mlfoundations/open_clip.
"""

import math
from typing import Any

from common.models import ModelConfig, TextConfig, ViTConfig
from common.models.cards import Card
from common.models.vit import VIT_VARIANTS
from common.system.errors import UserError
from common.weights import processors, timm_config
from common.weights.timm_config import check_options

NAME = "open_clip_config.json"
TRUNKS = {"B": "base", "L": "large", "So400m": "so400m", "g-opt": "giantopt"}
TRUNK_SIZES = {  # what timm has of SigLIP's image towers: (variant, patch) -> images
    ("B", 16): (224, 256, 384, 512), ("B", 32): (256,), ("L", 16): (256, 384, 512), ("So400m", 14): (224, 378, 384),
    ("So400m", 16): (256, 384, 512), ("g-opt", 16): (256, 384),
}  # fmt: skip
TRUNK_EPSILON = 1e-6
# Keys that follow from arrays, are read below, or change nothing of a trained model; and what others must say.
KNOWN = {
    "image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout", "timm_model_name",
    "timm_model_pretrained", "timm_drop", "timm_drop_path", "output_tokens", "act_kwargs", "norm_kwargs", "context_length",
    "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "heads", "eos_id", "pad_id", "timm_proj_bias", "proj_bias",
    "timm_pool", "timm_proj", "pool_type", "no_causal_mask", "proj_type", "hf_model_pretrained", "tokenizer_mode",
}  # fmt: skip
COMPUTED = {
    "ls_init_value": (None,), "attentional_pool": (False,), "attn_pooler_queries": (256,), "attn_pooler_heads": (8,),
    "pos_embed_type": ("learnable",), "no_ln_pre": (False,), "final_ln_after_pool": (False,), "block_type": (None,),
    "qk_norm": (False,), "scaled_cosine_attn": (False,), "scale_heads": (False,), "scale_attn_inner": (False,),
    "scale_attn": (False,), "scale_fc": (False,), "embed_cls": (False,), "hf_model_name": (None,),
}  # fmt: skip


def read_config(config: dict[str, Any]) -> tuple[dict[str, Any], tuple[dict[str, Any], list[str]]]:
    """(fields of a configuration below `image` and `text`, (facts of a card, notes)). UserError for what is not held."""
    model = config["model_cfg"]
    for part in ("vision_cfg", "text_cfg"):
        check_options(model[part], KNOWN, COMPUTED, NAME)
    quick = bool(model.get("quick_gelu"))
    fields = {"image": read_image(model["vision_cfg"], quick), "text": read_text(model["text_cfg"], quick)}
    return fields, read_preparation(config.get("preprocess_cfg", {}), fields["image"]["image_size"])


def read_image(told: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The fields of the image tower. UserError for a pooling that is not held."""
    facts = {"image_size": processors.pair(told.get("image_size", 224))}
    if name := told.get("timm_model_name"):
        activation = timm_config.ACTIVATIONS[timm_config.usual_activation(name)]
        return facts | activation | {"layer_norm_epsilon": TRUNK_EPSILON}
    if told.get("pool_type", "tok") != "tok":
        raise UserError(f"The {NAME} has pool_type {told['pool_type']!r}, expected 'tok'; choose another file.")
    return facts | read_layers(told, quick) | {"num_heads": told.get("width", 768) // told.get("head_width", 64)}


def read_text(told: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The fields of the text tower. UserError for a pooling that is not held."""
    pooling = {"argmax": "end", "last": "last"}.get(told.get("pool_type", "argmax"))
    if pooling is None:
        raise UserError(f"The {NAME} has pool_type {told['pool_type']!r}, expected 'argmax' or 'last'.")
    facts = {"pooling": pooling, "causal": not told.get("no_causal_mask", False), "num_heads": told.get("heads", 8)}
    return facts | read_layers(told, quick)


def read_layers(told: dict[str, Any], quick: bool) -> dict[str, Any]:
    """GELU and epsilon. UserError for an argument of them that is not held."""
    act, norm = told.get("act_kwargs") or {}, told.get("norm_kwargs") or {}
    if act not in ({}, {"approximate": "none"}, {"approximate": "tanh"}) or norm.keys() - {"eps"}:
        raise UserError(f"The {NAME} has act_kwargs {act} and norm_kwargs {norm}, expected approximate and eps only.")
    gelu = "quick" if quick else "tanh" if act.get("approximate") == "tanh" else "erf"
    return {"gelu": gelu, "layer_norm_epsilon": norm.get("eps", 1e-5)}


def read_preparation(told: dict[str, Any], size: tuple[int, int]) -> tuple[dict[str, Any], list[str]]:
    """(facts of a card, notes on what this project does otherwise), with open_clip's defaults for absent keys."""
    notes = []
    facts = {
        "resolution": processors.side_of({"height": size[0], "width": size[1]}, notes),
        "eval_resize": 0,
        "resize_kind": processors.resize_kind(told.get("interpolation", "bicubic"), notes),
        "mean": processors.triple(told.get("mean") or list(processors.CLIP_MEAN)),
        "std": processors.triple(told.get("std") or list(processors.CLIP_STD)),
    }
    mode = told.get("resize_mode", "shortest")
    if mode == "shortest":
        facts |= {"eval_resize": facts["resolution"], "rounding": "torchvision"}
    elif mode != "squash":
        notes.append(f"images are squashed, not resized by {mode!r}, as the model was made for")
    return facts, notes


# --- written


def write_config(config: ModelConfig, card: Card) -> tuple[dict[str, Any], list[str]]:
    """({file: contents}, notes on what open_clip does otherwise): `create_model("local-dir:FOLDER")` reads it.

    UserError for a GELU or an epsilon that it cannot say.
    """
    image, notes = describe_trunk(config.image) if config.bias else (describe_clip(config.image), [])
    model = {"embed_dim": config.width, "vision_cfg": image, "text_cfg": describe_text(config.text)}
    if card.text and card.text.kind != "bpe":  # the files beside it; without them, open_clip says so
        model["text_cfg"]["hf_tokenizer_name"] = card.text.vocabulary
    if config.bias:
        model |= {"init_logit_bias": -10, "custom_text": True}
    elif "quick" in (config.image.gelu, config.text.gelu):
        if config.image.gelu != config.text.gelu:
            raise UserError("open_clip has quick_gelu in both towers or in none; give --gelu to change the model.")
        model["quick_gelu"] = True
    kind, more = processors.peer_kind(card.preprocessing, "open_clip")
    prepared, eval_resize = card.preprocessing, card.preprocessing.eval_resize
    if eval_resize not in (0, config.image_size[1]):
        more.append(
            f"open_clip resizes the smaller side to {config.image_size[1]} px, not to {eval_resize} before the crop"
        )
    more += processors.rounding_note(prepared, "open_clip", "torchvision") if eval_resize else []
    facts = {
        "mean": list(prepared.mean),
        "std": list(prepared.std),
        "interpolation": kind,
        "resize_mode": "shortest" if eval_resize else "squash",
    }
    return {NAME: {"model_cfg": model, "preprocess_cfg": facts}}, notes + more


def describe_clip(config: ViTConfig) -> dict[str, Any]:
    """An image tower in open_clip's own names."""
    facts = {"image_size": config.image_size[0], "patch_size": config.patch_size[0], "width": config.width}
    facts |= {"layers": config.depth, "head_width": config.width // config.num_heads}
    return facts | describe_layers(config)


def describe_trunk(config: ViTConfig) -> tuple[dict[str, Any], list[str]]:
    """(an image tower of timm, notes). UserError where the one of its size computes another function."""
    facts = {
        "image_size": config.image_size[0],
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    name = trunk(config)
    if name is None:
        return facts, [f"timm has no SigLIP of this size, so {NAME} names none"]
    gelu = timm_config.ACTIVATIONS[timm_config.usual_activation(name)]["gelu"]
    for field, ours, theirs in (
        ("gelu", config.gelu, gelu), ("layer_norm_epsilon", config.layer_norm_epsilon, TRUNK_EPSILON)
    ):  # fmt: skip
        if ours != theirs:
            raise UserError(
                f"open_clip computes {name} with the {field} {theirs} and the model has {ours}; give --{field} {theirs} to "
                "change the model."
            )
    return facts | {"timm_model_name": name}, []


def trunk(config: ViTConfig) -> str | None:
    """timm's name of an image tower of SigLIP; None where it has none of this size."""
    for (variant, patch), sizes in TRUNK_SIZES.items():
        width, depth, heads, mlp_dim, _ = VIT_VARIANTS[variant]
        same = (config.width, config.depth, config.num_heads, config.mlp_dim) == (width, depth, heads, mlp_dim)
        if same and config.patch_size == (patch, patch) and config.image_size[0] in sizes:
            return f"vit_{TRUNKS[variant]}_patch{patch}_siglip_{config.image_size[0]}"
    return None


def describe_text(config: TextConfig) -> dict[str, Any]:
    """A text tower."""
    facts = {"context_length": config.length, "vocab_size": config.vocabulary, "width": config.width}
    facts |= {"heads": config.num_heads, "layers": config.depth} | describe_layers(config)
    return facts if config.causal else facts | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


def describe_layers(config: ViTConfig | TextConfig) -> dict[str, Any]:
    """The width of the MLPs, the epsilon and the GELU."""
    ratio = config.mlp_dim / config.width
    ratio = ratio if int(config.width * ratio) == config.mlp_dim else math.nextafter(ratio, math.inf)
    facts = {"mlp_ratio": ratio, "norm_kwargs": {"eps": config.layer_norm_epsilon}}
    return facts | ({"act_kwargs": {"approximate": "tanh"}} if config.gelu == "tanh" else {})
