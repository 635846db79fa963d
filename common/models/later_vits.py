"""ViTs of later papers by name: their parts, the images that they are made for, and how their authors prepare those.

Their files are pickles or lie on hubs: download them by hand, and give `--model NAME --weights FILE` (docs/weights.md).

Sources: `models.py`, `models_v2.py` and `datasets.py` of facebookresearch/deit; `models_mae.py` and `util/datasets.py` of
facebookresearch/mae; `hubconf.py` and `eval_linear.py` of facebookresearch/dino; `hub/backbones.py` and
`data/transforms.py` of facebookresearch/dinov2; `hub/backbones.py` of facebookresearch/dinov3, and the
`preprocessor_config.json` beside its files. The evaluation of DINOv2 crops 224 of 256 pixels; here the same middle of a
photograph is seen at the 518 pixels of its positions, and at 224 with `--crop 224`.
"""

from typing import Any, NamedTuple

SIZES = {  # name -> (width, depth, heads, MLP width), where no plain ViT of that name has them
    "g": (1536, 40, 24, 4096),
    "S+": (384, 12, 6, 1536),
    "H+": (1280, 32, 20, 5120),
    "7B": (4096, 40, 32, 8192),
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Later(NamedTuple):
    """One row: a variant, what it has beside the sizes, and the facts of its card."""

    variant: str  # of SIZES or of the plain ViTs
    patch: int
    pixels: int
    fields: dict[str, Any]
    prepared: dict[str, Any]
    source: str


def middle(pixels: int, part: float = 0.875) -> dict[str, Any]:
    """A central crop that is `part` of the smaller side, resized by Pillow's bicubic filter."""
    resize = {"resize_kind": "bicubic", "rounding": "torchvision"}
    return IMAGENET | resize | {"resolution": pixels, "eval_resize": int(pixels / part)}


ENCODER = {"num_classes": None, "gelu": "erf"}
DEIT = {"gelu": "erf"}
DEIT3 = DEIT | {"layer_scale": True, "cls_position": False}
DINOV2 = ENCODER | {"layer_scale": True, "position_resize": "dinov2"}
REGISTERS = {"registers": 4, "position_resize": "dinov2_registers"}
DINOV3 = ENCODER | {"layer_scale": True, "positions": "rotary", "cls_position": False, "registers": 4}
DINOV3 |= {"layer_norm_epsilon": 1e-5, "attn_biases": ("query", "value", "out")}
SQUASHED = IMAGENET | {"resize_kind": "bilinear", "eval_resize": 0, "resolution": 224}
ILSVRC, LVD = "ILSVRC-2012", "LVD-142M"
PAPERS = {name: f"https://arxiv.org/abs/{number}" for name, number in {
    "DeiT": "2012.12877", "DeiT III": "2204.07118", "MAE": "2111.06377", "DINO": "2104.14294", "DINOv2": "2304.07193",
    "DINOv3": "2508.10104",
}.items()}  # fmt: skip


def trained(paper: str, data: str) -> str:
    """What a row says of its files."""
    return f"{data}, {paper} ({PAPERS[paper]}); downloaded by hand"


def deit() -> dict[str, Later]:
    """DeiT, with and without its distillation token."""
    rows = {}
    for variant, pixels in (("Ti", 224), ("S", 224), ("B", 224), ("B", 384)):
        name = f"DeiT-{variant}/16" + (f"-{pixels}" if pixels != 224 else "")
        for ending, fields in (("", {}), ("-distilled", {"distilled": True})):
            rows[name + ending] = Later(variant, 16, pixels, DEIT | fields, middle(pixels), trained("DeiT", ILSVRC))
    return rows


def deit3() -> dict[str, Later]:
    """DeiT III."""
    rows = {}
    for variant, patch in (("S", 16), ("M", 16), ("B", 16), ("L", 16), ("H", 14)):
        for pixels in (224, 384) if variant in "SBL" else (224,):
            name = f"DeiT3-{variant}/{patch}" + (f"-{pixels}" if pixels != 224 else "")
            source = trained("DeiT III", f"{ILSVRC}, or ImageNet-21k before it")
            rows[name] = Later(variant, patch, pixels, DEIT3, middle(pixels, 1.0), source)
    return rows


def encoders() -> dict[str, Later]:
    """The encoders of MAE, and DINO."""
    rows = {}
    for variant, patch in (("B", 16), ("L", 16), ("H", 14)):
        rows[f"MAE-{variant}/{patch}"] = Later(variant, patch, 224, ENCODER, middle(224), trained("MAE", ILSVRC))
    for variant, patch in (("S", 16), ("S", 8), ("B", 16), ("B", 8)):
        rows[f"DINO-{variant}/{patch}"] = Later(variant, patch, 224, ENCODER, middle(224), trained("DINO", ILSVRC))
    return rows


def dinov2() -> dict[str, Later]:
    """DINOv2, with and without registers."""
    rows = {}
    for variant in ("S", "B", "L", "g"):
        gated = {"swiglu": True} if variant == "g" else {}
        for ending, fields in (("", {}), ("-reg4", REGISTERS)):
            fields = DINOV2 | gated | fields
            source = trained("DINOv2", LVD)
            rows[f"DINOv2-{variant}/14{ending}"] = Later(variant, 14, 518, fields, middle(518), source)
    return rows


def dinov3() -> dict[str, Later]:
    """DINOv3, whose larger ones have a gated MLP; the largest has no biases of queries and values."""
    rows = {}
    for variant in ("S", "S+", "B", "L", "H+", "7B"):
        fields = DINOV3 | ({"swiglu": True} if variant in SIZES else {})
        fields |= {"attn_biases": ("out",)} if variant == "7B" else {}
        rows[f"DINOv3-{variant}/16"] = Later(variant, 16, 224, fields, SQUASHED, trained("DINOv3", "LVD-1689M"))
    return rows


LATER = deit() | deit3() | encoders() | dinov2() | dinov3()
