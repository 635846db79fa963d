"""The spelling of KerasHub's presets: `model.weights.h5` of its ViT, SigLIP and CLIP, with a `config.json`.

Keras numbers what it keeps in lists and leaves out the number of the first, which has one here: `clip_encoder_layer_0`. The
head of a `ViTImageClassifier` lies in `task.weights.h5` beside, whose names stand below `task/` here; it is read only.

Sources: `models/{vit,siglip,clip}/*_{backbone,layers,encoder}.py`, `models/vit/vit_image_classifier.py` of keras-team/keras-hub.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from common.models import TextConfig, TwoTowersConfig, ViTConfig
from common.models.family import Arrays
from common.models.transformer import ATTENTION as BIASED
from common.models.vit import PLAIN
from common.weights.rows import slashed
from common.weights.spellings.google import ONE_PATCH
from common.weights.table import Table, prefixed

MODELS = re.compile(r"(^|/)(vi_t_encoder|sig_lip_(vision|text)_encoder|clip_(vision|text)_encoder)/")
FIRST = re.compile(r"/(vi_t_encoder_block|sig_lip_encoder_layer|clip_encoder_layer)(?=/)")
NUMBERED = re.compile(r"/(vi_t_encoder_block|sig_lip_encoder_layer|clip_encoder_layer)_0(?=/)")
IDS = r"/sig_lip_(vision|text)_embedding/vars/0$|/clip_vision_embedding/vars/1$|(^|/)optimizer/"  # numbers of positions
TASK = "task/"


def is_hub(names: Iterable[str]) -> bool:
    """Whether data sets of these names are a preset of one of these models."""
    return any(MODELS.search(name) for name in names)


def is_ids(name: str) -> bool:
    """Whether a data set has the numbers of positions."""
    return bool(re.search(IDS, name)) and "optimizer" not in name


def numbered(name: str) -> str:
    """A name with a number for the first of a list, too."""
    return FIRST.sub(r"/\1_0", name)


def in_file(published: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of what KerasHub asks for: the numbers of positions besides."""
    for name, array in published.items():
        yield NUMBERED.sub(r"/\1", name), array
        layer, _, last = name.rpartition("/position_embedding/vars/")
        if last and "sig_lip" in layer or layer.endswith("clip_vision_embedding"):
            ids = np.arange(len(array))[None]
            yield f"{layer}/vars/{1 if 'clip' in layer else 0}", ids


LAYER = (("kernel", "vars/0"), ("bias", "vars/1"))
NORM = (("scale", "vars/0"), ("bias", "vars/1"))
SPLIT = (("kernel", "vars/0", "D(NK) -> DNK"), ("bias", "vars/1", "(NK) -> NK"))
JOINED = (("kernel", "vars/0", "(NK)D -> NKD"), ("bias", "vars/1"))


def attention(theirs: str, ours: str = "attn") -> tuple:
    """Rows of Keras's multi-head attention."""
    rows = (
        row for part in ("query", "key", "value") for row in slashed(f"{ours}/{part}", f"{theirs}/{part}_dense", SPLIT)
    )
    return (*rows, *slashed(f"{ours}/out", f"{theirs}/output_dense", JOINED))


def block(norm: str, attn: str, mlp: str) -> tuple:
    """Rows of a block, whose layers have these names and numbers."""
    layers = [(f"norm{i}", f"{norm}{i}", NORM) for i in (1, 2)] + [(f"mlp/fc{i}", f"{mlp}{i}", LAYER) for i in (1, 2)]
    return (*(row for layer in layers for row in slashed(*layer)), *attention(attn))


def embedded(theirs: str, words: bool = False) -> tuple:
    """Rows of patches or words, and of their positions."""
    stem = (("stem/embedding", f"{theirs}/token_embedding/vars/0"),)
    stem = stem if words else slashed("stem", f"{theirs}/patch_embedding", LAYER)
    return (*stem, ("pos_embedding", f"{theirs}/position_embedding/vars/0", "1LD -> LD"))


PATCHES, ENCODER = "layers/vi_t_patching_and_embedding", "layers/vi_t_encoder"
VIT = (
    ("cls", f"{PATCHES}/vars/0"),
    *embedded(PATCHES),
    *slashed(
        "blocks/{block}",
        f"{ENCODER}/encoder_layers/vi_t_encoder_block_{{block}}",
        block("layer_norm_", "mha", "mlp/dense_"),
    ),
    *slashed("norm", f"{ENCODER}/layer_norm", NORM),
)
CLASSIFIER = (*VIT, *slashed("head", f"{TASK}layers/dense", LAYER))
PRE_LOGITS = (
    *VIT, *slashed("pre_logits", f"{TASK}layers/dense", LAYER), *slashed("head", f"{TASK}layers/dense_1", LAYER),
)  # fmt: skip
OF_VITS = PLAIN | ONE_PATCH | {
    "pooling": ("token", "gap", "first"), "positions": ("learned",), "pre_logits": (None,), "cls_position": (True,),
    "attn_biases": (BIASED, ()), "stem_bias": (True, False), "pre_norm": (False,), "head_bias": (True,), "gelu": ("erf",),
}  # fmt: skip


def tower(kind: str, part: str, words: bool, *parts: str) -> tuple:
    """Rows of a tower: its embedding, its blocks, whose layers have the names `parts`."""
    root = f"layers/{kind}_{part}_encoder/layers"
    names = block(*parts)
    return (
        *embedded(f"{root}/{'token_and_position' if words and kind == 'clip' else f'{kind}_{part}'}_embedding", words),
        *slashed("blocks/{block}", f"{root}/{kind}_encoder_layer_{{block}}", names),
    )


SIGLIP_PARTS, CLIP_PARTS = ("layer_norm", "self_attn", "mlp/fc"), ("layer_norm_", "attention", "dense_")
VISION, WORDS = ("layers/{}_vision_encoder/layers".format, "layers/{}_text_encoder/layers".format)
POOL = f"{VISION('sig_lip')}/sig_lip_multi_head_attention_pooling"
SIGLIP_VISION = (
    *tower("sig_lip", "vision", False, *SIGLIP_PARTS),
    *slashed("norm", f"{VISION('sig_lip')}/layer_normalization", NORM),
    ("pool/probe", f"{POOL}/vars/0"),
    *attention(f"{POOL}/attention", "pool/attn"),
    *slashed("pool/norm", f"{POOL}/layer_norm", NORM),
    *(row for i in (1, 2) for row in slashed(f"pool/mlp/fc{i}", f"{POOL}/mlp/fc{i}", LAYER)),
)
SIGLIP_WORDS = (
    *tower("sig_lip", "text", True, *SIGLIP_PARTS),
    *slashed("norm", f"{WORDS('sig_lip')}/layer_normalization", NORM),
    *slashed("head", f"{WORDS('sig_lip')}/dense", LAYER),
)
CLIP_VISION = (
    ("cls", f"{VISION('clip')}/clip_vision_embedding/vars/0", "11D -> D"),
    *tower("clip", "vision", False, *CLIP_PARTS),
    *slashed("pre_norm", f"{VISION('clip')}/layer_normalization", NORM),
    *slashed("norm", f"{VISION('clip')}/layer_normalization_1", NORM),
    ("head/kernel", "layers/dense/vars/0"),
)
CLIP_WORDS = (
    *tower("clip", "text", True, *CLIP_PARTS),
    *slashed("norm", f"{WORDS('clip')}/layer_normalization", NORM),
    ("head/kernel", "layers/dense_1/vars/0"),
)
OF_TOWERS = PLAIN | ONE_PATCH | {"positions": ("learned",), "pre_logits": (None,), "square": (True,)}
OF_SIGLIP = OF_TOWERS | {"pooling": ("map",), "num_classes": (None,), "stem_bias": (True,), "pre_norm": (False,)}
OF_CLIP = OF_TOWERS | {"pooling": ("token",), "cls_position": (True,), "stem_bias": (False,), "pre_norm": (True,)}
SIGLIP = {"computes": {"gelu": "tanh", "layer_norm_epsilon": 1e-6}, "ignored": IDS}
QUICK = {"gelu": "quick", "layer_norm_epsilon": 1e-5}
LAST = {"pooling": ("last",), "causal": (False,), "head_bias": (True,), "has_head": (True,)}
END = {"pooling": ("end",), "causal": (True,), "head_bias": (False,), "has_head": (True,)}
TOWERS = {  # head of both -> (tables of the two towers, rows of the head)
    "siglip": (
        Table("keras_hub", ViTConfig, SIGLIP_VISION, holds=OF_SIGLIP, **SIGLIP),
        Table("keras_hub", TextConfig, SIGLIP_WORDS, holds=LAST, **SIGLIP),
        (("t", "layers/sig_lip_head/vars/0", "1 -> "), ("b", "layers/sig_lip_head/vars/1", "1 -> ")),
    ),
    "clip": (
        Table("keras_hub", ViTConfig, CLIP_VISION, holds=OF_CLIP | {"head_bias": (False,)}, computes=QUICK, ignored=IDS),
        Table("keras_hub", TextConfig, CLIP_WORDS, holds=END, computes=QUICK | {"pooling": "end", "causal": True}),
        (("t", "layers/clip_head/vars/0", "1 -> "),),
    ),
}  # fmt: skip
ERF = {"computes": {"gelu": "erf", "layer_norm_epsilon": 1e-6}, "ignored": IDS}
TABLES = (
    Table("keras_hub", ViTConfig, VIT, holds=OF_VITS | {"num_classes": (None,)}, **ERF),
    Table("keras_hub", ViTConfig, CLASSIFIER, holds=OF_VITS | {"has_head": (True,)}, written=False, **ERF),
    Table(
        "keras_hub", ViTConfig, PRE_LOGITS, holds={name: OF_VITS[name] for name in OF_VITS if name != "pre_logits"} | {"has_head": (True,)},
        written=False, **ERF,
    ),
    *(
        Table(
            "keras_hub", TwoTowersConfig, rows, holds={"bias": ("b" in dict(row[:2] for row in rows),)}, ignored=IDS,
            children=(prefixed(image, "image", ""), prefixed(text, "text", "")),
        )
        for image, text, rows in TOWERS.values()
    ),
)  # fmt: skip
