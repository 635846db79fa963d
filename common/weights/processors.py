"""The preparation of images in timm's `pretrained_cfg` and in Hugging Face's `preprocessor_config.json`.

Readers return (facts of a card, notes on what this project does otherwise); writers are their inverse.
Sources: `data/config.py`, `data/transforms_factory.py` of huggingface/pytorch-image-models;
`image_processing_backends.py`, `models/*/image_processing_*.py` of huggingface/transformers.
"""

import math
from typing import Any, NamedTuple

from common.models import ModelConfig
from common.models.cards import Card, Preprocessing

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALVES = (0.5, 0.5, 0.5)
KINDS = ("bilinear", "bicubic", "nearest")  # as Pillow computes them, to within 1/255 or half a pixel
NEAREST_KINDS = {"box": "area", "hamming": "bilinear"}  # others: bicubic
PILLOW = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # the numbers of Pillow's filters
Told = tuple[dict[str, Any], list[str]]


def resize_kind(name: Any, notes: list[str]) -> str:
    """This project's kind of resizing for the name of a filter."""
    if name in KINDS:
        return name
    kind = NEAREST_KINDS.get(name, "bicubic")
    notes.append(f"images are resized by {kind}, not by {name!r}, as the model was made for")
    return kind


def triple(values: Any) -> Any:
    """Three numbers of one, or of a list of one; anything else as it is, for the card's check."""
    if isinstance(values, int | float) and not isinstance(values, bool):
        return [values] * 3
    return values * 3 if isinstance(values, list) and len(values) == 1 else values


def side_of(size: dict[str, int], notes: list[str]) -> int:
    """The width of a size in pixels, with a note where it is no square's."""
    if size["height"] != size["width"]:
        notes.append(f"images become squares, not {size['height']} x {size['width']} pixels")
    return size["width"]


# --- timm


def pair(size: int | list[int]) -> tuple[int, int]:
    """Height and width of 224, [384, 256] or [3, 384, 256]. ValueError for anything else."""
    height, width = size[-2:] if isinstance(size, list) and len(size) in (2, 3) else (size, size)
    if not type(height) is type(width) is int or min(height, width) < 1:
        raise ValueError(f"{size!r} is no size of images")
    return height, width


def read_timm(config: dict[str, Any]) -> Told:
    """The result of `resolve_model_data_config` on a config.json, with timm's defaults for absent keys."""
    told, notes = config.get("pretrained_cfg", config), []
    height, width = pair(told.get("input_size") or 224)
    crop_pct, mode = float(told.get("crop_pct") or 0.875), told.get("crop_mode") or "center"
    facts = {
        "resolution": width,
        "eval_resize": math.floor(width / crop_pct),
        "resize_kind": resize_kind(told.get("interpolation") or "bicubic", notes),
        "mean": triple(told.get("mean") or IMAGENET_MEAN),
        "std": triple(told.get("std") or IMAGENET_STD),
    }
    if height != width:
        side_of({"height": height, "width": width}, notes)
        del facts["resolution"]
        mode = "squash"
    if mode == "squash":
        if crop_pct != 1:
            notes.append(f"images are squashed whole, not cropped to the middle {crop_pct:g} after that, as timm does")
        return facts | {"eval_resize": 0}, notes
    if mode == "border":
        notes.append("images are squashed, not given a border, as timm's crop_mode border does")
        return facts | {"eval_resize": 0}, notes
    if crop_pct > 1:
        notes.append(f"images are not given a border, as timm's crop_pct {crop_pct:g} does")
        facts["eval_resize"] = facts["resolution"]
    return facts | {"rounding": "torchvision"}, notes


def write_timm(prepared: Preprocessing, resolution: int) -> tuple[dict[str, Any], list[str]]:
    """(the keys of `pretrained_cfg`, notes on what timm does otherwise)."""
    kind, notes = peer_kind(prepared, "timm")
    eval_resize = prepared.at(resolution).eval_resize
    notes += rounding_note(prepared, "timm", "torchvision") if eval_resize else []
    facts = {
        "interpolation": kind,
        "crop_pct": fraction(resolution, eval_resize) if eval_resize else 1.0,
        "crop_mode": "center" if eval_resize else "squash",
        "mean": list(prepared.mean),
        "std": list(prepared.std),
    }
    return facts, notes


def fraction(resolution: int, eval_resize: int) -> float:
    """A crop_pct of which timm's floor(resolution / crop_pct) is `eval_resize` again, rounded or not."""
    crop_pct = resolution / eval_resize
    return crop_pct if math.floor(resolution / crop_pct) == eval_resize else math.nextafter(crop_pct, 0)


def image_size(config: ModelConfig, card: Card) -> tuple[tuple[int, int], list[str]]:
    """(height and width of the images that a peer prepares, a note where they are unknown)."""
    if config.image_size:
        return config.image_size, []
    if card.resolution:
        return (card.resolution, card.resolution), []
    return (224, 224), ["no file states for which resolution the model was trained, so 224 px are written"]


def peer_kind(prepared: Preprocessing, peer: str) -> tuple[str, list[str]]:
    """(the filter of Pillow that is nearest to the card's kind, notes where it is another)."""
    if prepared.resize_kind in KINDS:
        return prepared.resize_kind, []
    return "bilinear", [f"{peer} cannot resize images by {prepared.resize_kind}, bilinear comes nearest and is written"]


def rounding_note(prepared: Preprocessing, peer: str, rounding: str) -> list[str]:
    """A note where a peer's central crop may be of other pixels than the card's."""
    if prepared.rounding == rounding:
        return []
    return [f"{peer} rounds sides and corners as {rounding} does, the model was made as {prepared.rounding} does: a "
            "central crop may lie a pixel off"]  # fmt: skip


# --- Hugging Face


class Processor(NamedTuple):
    """The defaults of a class of Hugging Face, for absent keys."""

    size: dict[str, int]
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int = 0  # px of the central crop; 0: none


CLIP = Processor({"shortest_edge": 224}, 3, CLIP_MEAN, CLIP_STD, 224)
PROCESSORS = {
    "ViT": Processor({"height": 224, "width": 224}, 2, HALVES, HALVES),
    "Bit": CLIP,
    "CLIP": CLIP,
    "DeiT": Processor({"height": 256, "width": 256}, 3, HALVES, HALVES, 224),
    "ConvNext": Processor({"shortest_edge": 384}, 3, HALVES, HALVES),
    "Siglip2": Processor({}, 2, HALVES, HALVES),
    "Siglip": Processor({"height": 224, "width": 224}, 3, HALVES, HALVES),
}
OF_A_MODEL = (
    {"vit": "ViT", "vit_mae": "ViT", "deit": "DeiT", "bit": "Bit"}
    | {kind: "Bit" for kind in ("dinov2", "dinov2_with_registers", "dinov3_vit")}
    | {
        f"{kind}{tower}": name
        for kind, name in (("siglip", "Siglip"), ("siglip2", "Siglip2"), ("clip", "CLIP"))
        for tower in ("", "_vision_model")
    }
)


def read_huggingface(told: dict[str, Any], model_type: str) -> Told:
    """The numbers that `AutoImageProcessor` reads from a preprocessor_config.json, with its class's defaults."""
    notes = []
    name = str(told.get("image_processor_type") or told.get("feature_extractor_type") or OF_A_MODEL[model_type])
    family = next((known for known in PROCESSORS if name.startswith(known)), None)
    if family is None:
        notes.append(f"what {name} does beyond its file is not known; taken as {OF_A_MODEL[model_type]}'s")
    default = PROCESSORS[family or OF_A_MODEL[model_type]]
    return read_geometry(told, default, family, notes) | read_scaling(told, default), notes


def read_geometry(told: dict[str, Any], default: Processor, family: str | None, notes: list[str]) -> dict[str, Any]:
    """`resolution`, `eval_resize` and `resize_kind`, and of patches within a budget `tokens`."""
    number = told.get("resample", default.resample)
    kind = resize_kind(PILLOW[number] if number in range(len(PILLOW)) else number, notes)
    if not told.get("do_resize", True):
        notes.append("images are resized, which their file leaves to its user")
    if family == "Siglip2":
        tokens = told.get("max_num_patches", 256)
        side = math.isqrt(tokens) * told.get("patch_size", 16)
        return {"resolution": side, "eval_resize": 0, "resize_kind": kind, "tokens": tokens}
    size, crop = told.get("size", default.size), 0
    if not isinstance(size, dict):
        keys = ("shortest_edge",) if "shortest_edge" in default.size else ("height", "width")
        size = dict.fromkeys(keys, size)
    if told.get("do_center_crop", bool(default.crop)):
        crop = told.get("crop_size", default.crop or 224)
        crop = side_of(crop, notes) if isinstance(crop, dict) else crop
    elif "width" in size:
        side_of(size, notes)
    side = size.get("shortest_edge", size.get("width"))
    if side is None:
        raise KeyError("shortest_edge")
    facts = {"resolution": crop or side, "eval_resize": 0, "resize_kind": kind}
    if family == "ConvNext":
        facts["eval_resize"] = int(side / told.get("crop_pct", 0.875)) if side < 384 else 0
    elif "shortest_edge" in size and not crop:
        notes.append("images are squashed to a square, where their file keeps their sides' ratio")
    elif "shortest_edge" in size:
        if crop > side:
            notes.append(f"images are not given a border from {side} to {crop} px")
        facts["eval_resize"] = max(side, crop)
    elif crop and crop != side:
        notes.append(f"images are squashed to {crop} px, not to {side} and cropped")
    return facts | ({"rounding": "huggingface"} if facts["eval_resize"] else {})


def read_scaling(told: dict[str, Any], default: Processor) -> dict[str, Any]:
    """`mean` and `std` of pixel values in [0, 1] that make (pixel * factor - mean) / std of the file."""
    factor = told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1
    normalizes = told.get("do_normalize", True)
    mean = triple(told.get("image_mean") or list(default.mean)) if normalizes else [0.0] * 3
    std = triple(told.get("image_std") or list(default.std)) if normalizes else [1.0] * 3
    if abs(255 * factor - 1) > 1e-9:
        mean, std = ([value / (255 * factor) for value in values] for values in (mean, std))
    return {"mean": mean, "std": std}


def write_huggingface(
    prepared: Preprocessing, size: tuple[int, int], model_type: str
) -> tuple[dict[str, Any], list[str]]:
    """(the contents of preprocessor_config.json, notes on what Hugging Face does otherwise)."""
    kind, notes = peer_kind(prepared, "Hugging Face")
    eval_resize, whole = prepared.at(size[1]).eval_resize, {"height": size[0], "width": size[1]}
    notes += rounding_note(prepared, "Hugging Face", "huggingface") if eval_resize else []
    return {
        "image_processor_type": f"{OF_A_MODEL[model_type]}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": eval_resize} if eval_resize else whole,
        "resample": PILLOW.index(kind),
        "do_center_crop": bool(eval_resize),
        "crop_size": whole,
        **scaling(prepared),
    }, notes


def scaling(prepared: Preprocessing) -> dict[str, Any]:
    """The keys of the scale of pixels."""
    return {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
    }


def write_patches(
    prepared: Preprocessing, size: tuple[int, int], patch: int, *, naflex: bool
) -> tuple[dict[str, Any], list[str]]:
    """The same for `Siglip2ImageProcessor`, which keeps the ratio of an image's sides and fills a number of patches."""
    kind, notes = peer_kind(prepared, "Hugging Face")
    if not naflex:
        notes.append("Siglip2ImageProcessor keeps the ratio of an image's sides; square images only are seen as here")
    return {
        "image_processor_type": "Siglip2ImageProcessor",
        "do_resize": True,
        "resample": PILLOW.index(kind),
        "patch_size": patch,
        "max_num_patches": prepared.tokens or (size[0] // patch) * (size[1] // patch),
        **scaling(prepared),
    }, notes
