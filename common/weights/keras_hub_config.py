"""What KerasHub's `config.json`, `task.json` and `image_converter.json` say of its ViT, SigLIP and CLIP: read, and written.

Sources: `models/{vit,siglip,clip}/*_{backbone,encoder,classifier}.py`, `layers/preprocessing/image_converter.py` and
`utils/preset_utils.py` of keras-team/keras-hub.
"""

from pathlib import Path
from typing import Any

from common.models import ModelConfig, TwoTowersConfig
from common.models.cards import Card
from common.system.errors import UserError
from common.weights import processors

REGISTERED = "keras_hub>"
WEIGHTS = "model.weights.h5"
VERSION = {"keras_version": "3.15.1", "keras_hub_version": "0.32.0"}  # whose layout is written
MODULES = {
    "ViTBackbone": "vit.vit_backbone", "SigLIPBackbone": "siglip.siglip_backbone", "CLIPBackbone": "clip.clip_backbone",
    "SigLIPVisionEncoder": "siglip.siglip_vision_encoder", "SigLIPTextEncoder": "siglip.siglip_text_encoder",
    "CLIPVisionEncoder": "clip.clip_vision_encoder", "CLIPTextEncoder": "clip.clip_text_encoder",
}  # fmt: skip
ACTIVATIONS = {"gelu": "erf", "gelu_approximate": "tanh", "quick_gelu": "quick"}
ACTIVATED = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
KINDS = {("bilinear", True): "bilinear", ("bilinear", False): "bilinear_aliased", ("bicubic", True): "bicubic"}


def is_hub(config: dict[str, Any]) -> bool:
    """Whether a config.json is KerasHub's."""
    return str(config.get("registered_name", "")).startswith(REGISTERED)


def read_config(config: dict[str, Any], task: dict[str, Any] | None) -> dict[str, Any]:
    """Fields of the configuration that a config.json, and the task.json beside, state. UserError for what is not held."""
    name, told = config["class_name"], config["config"]
    if name not in ("ViTBackbone", "SigLIPBackbone", "CLIPBackbone"):
        raise UserError(
            f"The config.json is of KerasHub's {name}, expected ViTBackbone, SigLIPBackbone or CLIPBackbone; choose another preset."
        )
    if name != "ViTBackbone":
        epsilon = {} if name == "SigLIPBackbone" else {"layer_norm_epsilon": 1e-5}
        pooling = {"pooling": "last" if name == "SigLIPBackbone" else "end"}
        texts = tower(told["text_encoder"]["config"] | epsilon) | pooling
        return {"image": tower(told["vision_encoder"]["config"] | epsilon), "text": texts}
    height, width = told["image_shape"][:2]
    facts = {"gelu": "erf", "layer_norm_epsilon": told["layer_norm_epsilon"], "num_heads": told["num_heads"]}
    facts |= {"image_size": (height, width)}
    return facts | (head(task["config"], token=told.get("use_class_token", True)) if task else {})


def tower(told: dict[str, Any]) -> dict[str, Any]:
    """Fields of a tower. UserError for another activation."""
    if told["intermediate_activation"] not in ACTIVATIONS:
        raise UserError(
            f"The config.json has intermediate_activation {told['intermediate_activation']!r}, expected one of {sorted(ACTIVATIONS)}."
        )
    facts = {"gelu": ACTIVATIONS[told["intermediate_activation"]], "layer_norm_epsilon": told["layer_norm_epsilon"]}
    facts |= {"num_heads": told["num_heads"]}
    return facts | ({"image_size": tuple(told["image_shape"][:2])} if "image_shape" in told else {})


def head(told: dict[str, Any], *, token: bool) -> dict[str, Any]:
    """Fields of the head of a classifier. UserError for a pooling or activation that no ViT here has."""
    if told.get("activation") not in (None, "linear", "softmax"):
        raise UserError(
            f"The task.json has activation {told['activation']!r}, expected None or 'softmax'; choose another."
        )
    poolings = {"token": "token"} if token else {"gap": "gap", "token": "first"}
    if told.get("pooling", "token") not in poolings:
        raise UserError(
            f"The task.json has pooling {told.get('pooling')!r} of a ViT {'with' if token else 'without'} a class token, "
            f"expected {' or '.join(map(repr, poolings))}; choose another preset."
        )
    return {"pooling": poolings[told.get("pooling", "token")]}


def read_converter(told: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(facts of a card, notes) of an image_converter.json."""
    told, notes = told["config"], []
    scale, offset = (processors.triple(told.get(name, usual)) for name, usual in (("scale", 1), ("offset", 0)))
    std = tuple(1 / (255 * one) for one in scale)
    facts = {"std": std, "mean": tuple(-one * deviation for one, deviation in zip(offset, std))}
    kind = told.get("interpolation", "bilinear"), bool(told.get("antialias", False))
    if kind not in KINDS:
        notes.append(f"images are resized by a bilinear filter, and KerasHub asks for {kind[0]}, antialias {kind[1]}")
    facts |= {"resize_kind": KINDS.get(kind, "bilinear")}
    if told.get("pad_to_aspect_ratio"):
        notes.append("images are squashed, not given a border, as KerasHub's pad_to_aspect_ratio does")
    if size := told.get("image_size"):
        facts |= {"resolution": size[0], "eval_resize": size[0] if told.get("crop_to_aspect_ratio", True) else 0}
    return facts, notes


def beside(path: Path) -> tuple[Path, Path]:
    """The task.json and the image_converter.json beside a config.json."""
    return path.with_name("task.json"), path.with_name("image_converter.json")


# --- written


def write_config(config: ModelConfig, card: Card) -> tuple[dict[str, Any], list[str]]:
    """({file: contents}, notes): `Backbone.from_preset(FOLDER)` reads it."""
    files = {"config.json": describe(config), "metadata.json": VERSION | {"tasks": []}}
    if card.mean is None:
        return files, []
    scale = [1 / (255 * std) for std in card.std]
    facts = {"scale": scale, "offset": [-mean / std for mean, std in zip(card.mean, card.std)]}
    facts |= {"image_size": list(config.image_size), "crop_to_aspect_ratio": bool(card.preprocessing.eval_resize)}
    kinds = {ours: kind for kind, ours in KINDS.items()}
    facts |= dict(zip(("interpolation", "antialias"), kinds.get(card.preprocessing.resize_kind, ("bilinear", True))))
    lost = (
        card.preprocessing.eval_resize not in (0, config.image_size[0]) or card.preprocessing.resize_kind not in kinds
    )
    kind = type_of(config).removesuffix("Backbone")
    converter = registered(f"{kind}ImageConverter", f"{kind.lower()}.{kind.lower()}_image_converter", facts)
    notes = [
        "KerasHub crops the whole smaller side and resizes bilinearly or bicubically: other wishes of the card are lost"
    ]
    return files | {"image_converter.json": converter}, notes if lost else []


def type_of(config: ModelConfig) -> str:
    """The class of the model."""
    return (
        "ViTBackbone"
        if not isinstance(config, TwoTowersConfig)
        else "SigLIPBackbone"
        if config.bias
        else "CLIPBackbone"
    )


def registered(name: str, module: str, facts: dict[str, Any]) -> dict[str, Any]:
    """An object as Keras serialises it."""
    where = f"keras_hub.src.models.{module}"
    return {"module": where, "class_name": name, "config": facts, "registered_name": f"{REGISTERED}{name}"}


def describe(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model."""
    name = type_of(config)
    if name == "ViTBackbone":
        facts = {"patch_size": list(config.patch_size), "mlp_dim": config.mlp_dim, "use_class_token": config.has_cls}
        facts |= {"use_mha_bias": "query" in config.attn_biases, "use_patch_bias": config.stem_bias}
        facts |= {"layer_norm_epsilon": config.layer_norm_epsilon, **sizes(config)}
        return registered(name, MODULES[name], facts)
    kind, towers = name.removesuffix("Backbone"), {}
    for part, child in (("Vision", config.image), ("Text", config.text)):
        facts = sizes(child) | {"intermediate_dim": child.mlp_dim, "intermediate_activation": ACTIVATED[child.gelu]}
        facts |= {"layer_norm_epsilon": child.layer_norm_epsilon} if kind == "SigLIP" else {}
        if part == "Vision":
            facts |= {"patch_size": child.patch_size[0]}
        else:
            facts |= {
                "vocabulary_size": child.vocabulary,
                "embedding_dim": child.width,
                "max_sequence_length": child.length,
            }
            facts |= {"projection_dim": child.num_classes} if kind == "SigLIP" else {}
        encoder = f"{kind}{part}Encoder"
        towers[f"{part.lower()}_encoder"] = registered(encoder, MODULES[encoder], facts)
    return registered(name, MODULES[name], towers | ({"projection_dim": config.width} if kind == "CLIP" else {}))


def sizes(config: ModelConfig) -> dict[str, Any]:
    """What is every transformer's; of images, their shape."""
    facts = {"num_layers": config.depth, "num_heads": config.num_heads, "hidden_dim": config.width}
    return facts | ({"image_shape": [*config.image_size, 3]} if config.image_size else {})
