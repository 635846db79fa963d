"""The spelling of open_clip, and of OpenAI's CLIP: PyTorch names in safetensors, with an `open_clip_config.json`
(common/weights/open_clip_config.py). CLIP is in names of its own; SigLIP has timm's image tower and a text tower below `text.`

Sources: `model.py`, `transformer.py`, `timm_model.py` of mlfoundations/open_clip; `clip/model.py` of openai/CLIP.
"""

from common.models import TextConfig, TwoTowersConfig, ViTConfig
from common.weights.rows import dotted
from common.weights.spellings import timm
from common.weights.spellings.huggingface import OF_CLIP, TORCH_ATTENTION
from common.weights.spellings.timm import CONV, DENSE, NORM
from common.weights.table import Table, prefixed

BLOCK = (
    *dotted("norm1", "ln_1", NORM),
    *((ours, f"attn.{theirs}", *how) for ours, theirs, *how in TORCH_ATTENTION),
    *dotted("norm2", "ln_2", NORM),
    *dotted("mlp/fc1", "mlp.c_fc", DENSE),
    *dotted("mlp/fc2", "mlp.c_proj", DENSE),
)
BLOCKS = dotted("blocks/{block}", "transformer.resblocks.{block}", BLOCK)
POSITIONS = ("pos_embedding", "positional_embedding", "1LD -> LD")
IMAGE = (
    ("cls", "class_embedding", "11D -> D"),
    POSITIONS,
    *dotted("stem", "conv1", CONV),
    *dotted("pre_norm", "ln_pre", NORM),
    *BLOCKS,
    *dotted("norm", "ln_post", NORM),
    ("head/kernel", "proj"),
)
WORDS = (
    POSITIONS,
    ("stem/embedding", "token_embedding.weight"),
    *BLOCKS,
    *dotted("norm", "ln_final", NORM),
)
ERF = {"gelu": "erf", "layer_norm_epsilon": 1e-5}
END = {"pooling": "end", "causal": True}
IGNORED = r"^(input_resolution|context_length|vocab_size)$|(^|\.)attn_mask$"  # of OpenAI's files
CLIP_IMAGE = Table("open_clip", ViTConfig, IMAGE, holds=OF_CLIP | {"head_bias": (False,)}, computes=ERF)
CLIP_WORDS = Table(
    "open_clip", TextConfig, (*WORDS, ("head/kernel", "text_projection")),
    holds={"pooling": ("end",), "causal": (True,), "head_bias": (False,), "has_head": (True,)}, computes=ERF | END,
)  # fmt: skip
ATTENTION_POOLED = timm.HOLDS | {"pooling": ("map",), "num_classes": (None,), "square": (True,)}
SIGLIP_IMAGE = Table("open_clip", ViTConfig, timm.VIT, holds=ATTENTION_POOLED, computes=timm.ERF)
SIGLIP_WORDS = Table(
    "open_clip", TextConfig, (*WORDS, *dotted("head", "text_projection", DENSE)),
    holds={"pooling": ("last",), "causal": (False,), "head_bias": (True,), "has_head": (True,)},
    computes={"gelu": "erf", "layer_norm_epsilon": 1e-6},
)  # fmt: skip


def towers(image: tuple[Table, str], words: tuple[Table, str], rows: tuple, bias: bool) -> Table:
    """The table of a model with these (towers, what stands before their names)."""
    children = (prefixed(image[0], "image", image[1]), prefixed(words[0], "text", words[1]))
    return Table("open_clip", TwoTowersConfig, rows, children=children, holds={"bias": (bias,)}, ignored=IGNORED)


SCALE = ("t", "logit_scale", "1 -> ")
TABLES = (
    towers((CLIP_IMAGE, "visual."), (CLIP_WORDS, ""), (SCALE,), False),
    towers((SIGLIP_IMAGE, "visual.trunk."), (SIGLIP_WORDS, "text."), (SCALE, ("b", "logit_bias", "1 -> ")), True),
)
