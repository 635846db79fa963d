"""The table of docs/weights.md: which spelling holds which ViT, found by asking the tables of spellings.

`python -m scripts.formats --write` writes it into the page; without, it is printed. tests/test_formats.py compares them.
"""

import re
import sys
from pathlib import Path

from common.models import ViTConfig
from common.system.errors import UserError
from common.weights.express import cannot_hold, choose_table, expressed
from common.weights.spellings import TABLES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "weights.md"
MARKS = "<!-- made by scripts/formats.py --write -->", "<!-- end of the table -->"
PEERS = {  # spelling -> the project and, where it is a package, the name of that
    "vision_transformer": ("vision_transformer", None), "big_vision": ("big_vision", None), "coyo": ("coyo-vit", None),
    "timm": ("timm", "timm"), "huggingface": ("transformers", "transformers"), "facebook": ("facebook", None),
    "torchvision": ("torchvision", "torchvision"), "keras_hub": ("keras-hub 0.32.0", None), "jeonsworld": ("jeonsworld", None),
}  # fmt: skip
SIZES = ((16, 16), 384, 12, 6, 1536)
HEADLESS = {"num_classes": None, "gelu": "erf", "layer_scale": True}
DINOV3 = {"positions": "rotary", "cls_position": False, "layer_norm_epsilon": 1e-5}
MODELS = {  # what it is called -> fields of the configuration
    "ViT, DeiT, with a class token": {},
    "ViT without a head: DINO, encoders of MAE": {"num_classes": None},
    "ViT that pools its patches": {"pooling": "gap"},
    "ViT with a norm behind its pooling (`fc_norm`): MAE fine-tuned": {
        "pooling": "gap_norm", "registers": 1, "register_positions": True,
    },
    "ViT that pools by attention": {"pooling": "map"},
    "FlexiViT": {"pooling": "gap", "kernel_size": (32, 32), "position_grid": (7, 7)},
    "NaFlex, the image tower of SigLIP 2": {"num_classes": None, "pooling": "map", "naflex": True},
    "DeiT, distilled": {"distilled": True},
    "DeiT of one head with its second token (`DeiTModel`)": {"registers": 1, "register_positions": True},
    "DeiT III": {"layer_scale": True, "cls_position": False},
    "DINOv2": HEADLESS,
    "DINOv2 with registers": HEADLESS | {"registers": 4},
    "DINOv2 with a gated MLP (g)": HEADLESS | {"swiglu": True},
    "DINOv2 with a head over class token and mean": HEADLESS | {"pooling": "token_gap", "num_classes": 1000},
    "DINOv3": HEADLESS | DINOV3 | {"registers": 4, "attn_biases": ("query", "value", "out")},
    "DINOv3 with a gated MLP (S+, H+, 7B)": HEADLESS | DINOV3 | {"registers": 4, "attn_biases": ("out",), "swiglu": True},
    "ViT with normalised queries and keys": {"qk_norm": True},
    "ViT-22B's parallel blocks, Dual PatchNorm": {"parallel": True, "qk_norm": True, "patch_norms": ("pre", "post")},
}  # fmt: skip


def versions() -> dict[str, str]:
    """{package: version} of constraints.txt, with which tests run."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def cell(config: ViTConfig, spelling: str) -> str:
    """Whether a spelling holds a model: yes; what is changed on the way, which leaves its outputs; read only; or nothing."""
    try:
        notes = expressed(config, choose_table(spelling, config))[1]
    except UserError:
        tables = [table for table in TABLES if (table.spelling, table.family) == (spelling, ViTConfig)]
        return "read" if any(not table.written and not cannot_hold(table, config) for table in tables) else ""
    return "yes, folded" if any("cannot be undone" in note for note in notes) else "yes"


def table() -> str:
    """The table in Markdown."""
    found = versions()
    heads = [f"{name} {found[package]}" if package else name for name, package in PEERS.values()]
    rows = [["model", *heads], ["---"] * (len(heads) + 1)]
    for name, fields in MODELS.items():
        config = ViTConfig(*SIZES, **{"num_classes": 1000, "gelu": "erf"} | fields)
        rows.append([name, *(cell(config, spelling) for spelling in PEERS)])
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in row) + "|" for row in rows)


def written(page: str) -> str:
    """The page with the table of today between its marks."""
    before, _, rest = page.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        print(table())
