"""The `config.json` beside Hugging Face's weights: read, and written.

ViT, DeiT, DINOv2 and their like: huggingface_vits.py; SigLIP, CLIP and BERT: huggingface_towers.py. Source:
`models/bit/configuration_bit.py` of huggingface/transformers.
"""

import re
from typing import Any

from common.models import ModelConfig, ResNetConfig, ViTConfig
from common.models.cards import Card
from common.system.errors import UserError
from common.weights import huggingface_vits, processors
from common.weights.huggingface_towers import TYPES, describe_towers, is_tower, read_towers
from common.weights.timm_config import in_order

FIXED_BIT = {  # what a BiT's config.json must say to be the model of the paper
    "layer_type": "preactivation",
    "global_padding": None,
    "embedding_dynamic_padding": False,
    "hidden_act": "relu",
    "output_stride": 32,
}
OTHERS = {  # beginning of a model_type -> the part that no family of this project has
    r"swin|donut|maskformer": "a transformer whose attention is within shifted windows",
    r"beit|data2vec-vision|dpt|sam|vitdet": "a ViT with relative positions, or one whose output is a map",
    r"convnext|dinov3_convnext|resnet|efficientnet|mobilenet|regnet": "a network of convolutions",
    r"ijepa|videomae|vivit|timesformer": "a ViT without a class token whose positions or patches are others",
    r"blip|clipseg|align|owl|git|llava|aimv2|idefics|florence|coca": "a model of images and texts of another kind",
    r"gpt|llama|t5|roberta|distilbert|whisper|qwen|gemma|mistral|opt|bloom|mamba": "a model of language or sound",
}
LOSSES = {"single_label_classification": "softmax", "multi_label_classification": "sigmoid"}


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a configuration, and `class_names`, that a config.json states. UserError for what is not held."""
    if config.get("model_type") in TYPES:
        return read_towers(config)
    facts = {}
    if config.get("model_type") == "bit":
        for name, value in FIXED_BIT.items():
            if config.get(name, value) != value:
                raise UserError(f"The config.json has {name} {config[name]!r}, expected {value!r}, as BiT has it.")
        facts["num_groups"] = config.get("num_groups", 32)
    elif config.get("model_type") in huggingface_vits.DEFAULTS:
        facts |= huggingface_vits.read_config(config)
    else:
        known = ", ".join((*huggingface_vits.DEFAULTS, "bit", *TYPES))
        kind = str(config.get("model_type"))
        what = next((f" ({what})" for pattern, what in OTHERS.items() if re.match(pattern, kind)), "")
        raise UserError(
            f"The config.json has model_type {kind!r}{what}, expected one of {known}; choose another model."
        )
    problem = config.get("problem_type")
    if problem is not None:
        if problem not in LOSSES:
            raise UserError(f"The config.json has problem_type {problem!r}, expected one of {', '.join(LOSSES)}.")
        facts["loss"] = LOSSES[problem]
    labels = config.get("id2label") or {}
    names = in_order(labels)
    if names != [f"LABEL_{number}" for number in range(len(names))]:
        facts["class_names"] = names
    return facts


def write_config(config: ModelConfig, card: Card, siglip2: bool = False) -> tuple[dict[str, Any], list[str]]:
    """({file: contents}, notes on what Hugging Face does otherwise): `from_pretrained` and `pipeline` read it.

    `siglip2`: for `Siglip2Model`.
    """
    facts = describe_towers(config, card, siglip2) if is_tower(config) else describe(config, card)
    if config.image_kernel is None:
        return {"config.json": facts}, []
    size, notes = processors.image_size(config, card)
    if siglip2:
        patch = getattr(config, "image", config).patch_size[0]
        processor, more = processors.write_patches(card.preprocessing, size, patch, naflex=config.naflex)
    else:
        processor, more = processors.write_huggingface(card.preprocessing, size, facts["model_type"])
    return {"config.json": facts, "preprocessor_config.json": processor}, notes + more


def describe(config: ModelConfig, card: Card) -> dict[str, Any]:
    """The facts of a model in a config.json."""
    names = card.class_names or [f"LABEL_{i}" for i in range(config.num_classes or 0)]
    labels = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    labels |= {"problem_type": "multi_label_classification"} if card.loss == "sigmoid" else {}
    kind = "Model" if config.num_classes is None else "ForImageClassification"
    return DESCRIBED[type(config)](config, kind) | labels


def describe_bit(config: ResNetConfig, kind: str) -> dict[str, Any]:
    """The same of a BiT, but for its classes."""
    widths = [4 * config.stem_width * 2**stage for stage in range(len(config.num_units))]
    return {
        "architectures": [f"Bit{kind}"],
        "model_type": "bit",
        "depths": list(config.num_units),
        "hidden_sizes": widths,
        "embedding_size": config.stem_width,
        "width_factor": 1,  # the widths above have it
        "num_groups": config.num_groups,
        "num_channels": 3,
        **FIXED_BIT,
    }


DESCRIBED = {ResNetConfig: describe_bit, ViTConfig: huggingface_vits.describe}
