"""The spelling of Hugging Face transformers: safetensors with a `config.json` (common/weights/huggingface_config.py).

    huggingface          ViT, DeiT, the encoder of ViTMAE, DINOv2 and DINOv3 in the names that every version saves and loads;
                         BiT; SigLIP, CLIP, their towers alone, and BERT
    huggingface_v5       ViT, DeiT and DINOv2 in the names that modules bear since version 5
    huggingface_siglip2  SigLIP 2 in the names of `Siglip2Model`, which takes images as rows of patches; the published ones
                         of a fixed resolution are a `SiglipModel`

Models without a head (`ViTModel`, `BitModel`) have the names without `vit.` or `bit.` before them; a `ViTModel` has a
pooler as well, which no other part of it uses. Towers alone may lack what stands before their names, too.

Sources: `models/{vit,deit,vit_mae,dinov2,dinov2_with_registers,dinov3_vit,bit,siglip,siglip2,clip,bert}/modeling_*.py` of huggingface/transformers.
"""

import itertools

from common.models import BertConfig, ResNetConfig, TextConfig, TwoTowersConfig, ViTConfig
from common.models.transformer import ATTENTION as BIASED
from common.models.vit import PLAIN
from common.weights.rows import dotted
from common.weights.spellings.google import CLASS_TOKEN, ONE_PATCH
from common.weights.spellings.timm import BIT_COMPUTES, CONV, DENSE, MLP, NORM, PATCHES, fused
from common.weights.spellings.timm import CELL as TIMM_CELL
from common.weights.table import AtLeast, Table, prefixed

BLOCK = (
    *dotted("norm1", "layernorm_before", NORM),
    *dotted("attn/query", "attention.attention.query", DENSE),
    *dotted("attn/key", "attention.attention.key", DENSE),
    *dotted("attn/value", "attention.attention.value", DENSE),
    *dotted("attn/out", "attention.output.dense", DENSE),
    *dotted("norm2", "layernorm_after", NORM),
    *dotted("mlp/fc1", "intermediate.dense", DENSE),
    *dotted("mlp/fc2", "output.dense", DENSE),
)
BLOCK_V5 = (
    *dotted("norm1", "layernorm_before", NORM),
    *dotted("attn/query", "attention.q_proj", DENSE),
    *dotted("attn/key", "attention.k_proj", DENSE),
    *dotted("attn/value", "attention.v_proj", DENSE),
    *dotted("attn/out", "attention.o_proj", DENSE),
    *dotted("norm2", "layernorm_after", NORM),
    *dotted("mlp/fc1", "mlp.fc1", DENSE),
    *dotted("mlp/fc2", "mlp.fc2", DENSE),
)
BIT = (
    *dotted("stem", "bit.embedder.convolution", CONV),
    *dotted("blocks/{cell}", "bit.encoder.stages.{stage}.layers.{unit}", TIMM_CELL),
    *dotted("norm", "bit.norm", NORM),
    *dotted("head", "classifier.1", DENSE),
)


SCALES = (("layer_scale1/scale", "layer_scale1.lambda1"), ("layer_scale2/scale", "layer_scale2.lambda1"))
DINOV2_BLOCK = (
    *dotted("norm1", "norm1", NORM),
    *(row for row in BLOCK if row[0].startswith("attn/")),
    *dotted("norm2", "norm2", NORM),
    *SCALES,
)
GATED = (*fused(("mlp/gate", "mlp/fc1"), "mlp.weights_in"), *dotted("mlp/fc2", "mlp.weights_out", DENSE))
DINOV2_BLOCK_V5 = (
    *dotted("norm1", "norm1", NORM),
    *(row for row in BLOCK_V5 if row[0].startswith("attn/")),
    *dotted("norm2", "norm2", NORM),
    *SCALES,
)
SPLIT_GATE = (
    *dotted("mlp/gate", "mlp.gate_proj", DENSE),
    *dotted("mlp/fc1", "mlp.up_proj", DENSE),
    *dotted("mlp/fc2", "mlp.down_proj", DENSE),
)
PLAIN_MLP = dotted("mlp", "mlp", MLP)
DINOV2_BLOCKS = (  # (spelling, rows, whether the MLP is gated)
    ("huggingface", (*DINOV2_BLOCK, *PLAIN_MLP), False),
    ("huggingface", (*DINOV2_BLOCK, *GATED), True),
    ("huggingface_v5", (*DINOV2_BLOCK_V5, *PLAIN_MLP), False),
    ("huggingface_v5", (*DINOV2_BLOCK_V5, *SPLIT_GATE), True),
)
DINOV3_BLOCK = (*DINOV2_BLOCK_V5, *SPLIT_GATE)  # the layers of a plain MLP have two of the three names


def vit_rows(block: str, rows: tuple, root: str = "vit.") -> tuple:
    """Rows of a ViT, whose names begin with `root`."""
    return (
        ("cls", f"{root}embeddings.cls_token"),
        ("registers", f"{root}embeddings.register_tokens"),
        ("pos_embedding", f"{root}embeddings.position_embeddings"),
        *dotted("stem", f"{root}embeddings.patch_embeddings.projection", PATCHES),
        *dotted("blocks/{block}", f"{root}{block}", rows),
        *dotted("norm", f"{root}layernorm", NORM),
        *dotted("head", "classifier", DENSE),
    )


def deit_rows(block: str, rows: tuple, distilled: bool) -> tuple:
    """Rows of a DeiT. One with a single head makes nothing of its distillation token, which is a register therefore."""
    names = {"registers": ("dist" if distilled else "registers", "deit.embeddings.distillation_token")}
    table = tuple(names.get(row[0], row) for row in vit_rows(block, rows, "deit."))
    if not distilled:
        return table
    heads = (*dotted("head", "cls_classifier", DENSE), *dotted("head_dist", "distillation_classifier", DENSE))
    return (*(row for row in table if not row[0].startswith("head/")), *heads)


DINOV3_ROWS = (
    ("cls", "embeddings.cls_token"),
    ("registers", "embeddings.register_tokens"),
    *dotted("stem", "embeddings.patch_embeddings", PATCHES),
    *dotted("blocks/{block}", "layer.{block}", DINOV3_BLOCK),
    *dotted("norm", "norm", NORM),
)


VIT = {
    "aliases": ((r"^(embeddings|encoder|layers|layernorm|pooler)\.", r"vit.\1."),),
    "ignored": r"^vit\.pooler\.|^vit\.embeddings\.mask_token$|^decoder\.",  # of ViTForMaskedImageModeling, ViTMAE
    "holds": CLASS_TOKEN | {"pre_logits": (None,), "attn_biases": (BIASED, ("out",))},
    "computes": {"gelu": "erf", "layer_norm_epsilon": 1e-12},
}
DEIT = VIT | {
    "aliases": ((r"^(embeddings|encoder|layers|layernorm|pooler)\.", r"deit.\1."),),
    "ignored": r"^deit\.pooler\.|^deit\.embeddings\.mask_token$|^decoder\.",
}
TOKEN_AS_REGISTER = VIT["holds"] | {"registers": (1,), "register_positions": (True,)}
OF_DINOV2 = VIT["holds"] | {"layer_scale": (True,)}
DINOV2 = OF_DINOV2 | {"num_classes": (None,), "registers": AtLeast(0)}
DINOV2_HEAD = OF_DINOV2 | {"has_head": (True,), "pooling": ("token_gap",)}
DINOV2_ROOTS = ((r"^dinov2(_with_registers)?\.", ""),)
DINOV2_FILE = {
    "ignored": r"^(\w+\.)?embeddings\.mask_token$",
    "computes": {"gelu": "erf", "layer_norm_epsilon": 1e-6},
}  # fmt: skip
DINOV3 = DINOV2 | {
    "registers": AtLeast(1),
    "positions": ("rotary",), "swiglu": (False, True), "cls_position": (True, False), "register_positions": (False, True),
    "attn_biases": tuple(choice for size in range(5) for choice in itertools.combinations(BIASED, size)),
}  # fmt: skip
# --- SigLIP and CLIP: towers of one kind of block

TOWER_BLOCK = (
    *dotted("norm1", "layer_norm1", NORM),
    *dotted("attn/query", "self_attn.q_proj", DENSE),
    *dotted("attn/key", "self_attn.k_proj", DENSE),
    *dotted("attn/value", "self_attn.v_proj", DENSE),
    *dotted("attn/out", "self_attn.out_proj", DENSE),
    *dotted("norm2", "layer_norm2", NORM),
    *dotted("mlp", "mlp", MLP),
)
QUERY_KEY_VALUE = tuple(f"attn/{part}" for part in ("query", "key", "value"))
TORCH_ATTENTION = (  # torch.nn.MultiheadAttention
    (tuple(f"{name}/kernel" for name in QUERY_KEY_VALUE), "in_proj_weight", "IO -> OI"),
    (tuple(f"{name}/bias" for name in QUERY_KEY_VALUE), "in_proj_bias"),
    *dotted("attn/out", "out_proj", DENSE),
)
POOL = (
    ("probe", "probe"),
    *((ours, f"attention.{theirs}", *how) for ours, theirs, *how in TORCH_ATTENTION),
    *dotted("norm", "layernorm", NORM),
    *dotted("mlp", "mlp", MLP),
)
POSITIONS = ("pos_embedding", "embeddings.position_embedding.weight", "1LD -> LD")
BLOCKS = dotted("blocks/{block}", "encoder.layers.{block}", TOWER_BLOCK)
VISION = (POSITIONS, *BLOCKS, *dotted("norm", "post_layernorm", NORM))
WORDS = (("stem/embedding", "embeddings.token_embedding.weight"), POSITIONS, *BLOCKS)
WORDS = (*WORDS, *dotted("norm", "final_layer_norm", NORM))
PATCH = "embeddings.patch_embedding"
LINEAR = (("kernel", "weight", "HWIO -> O(HWI)"), ("bias", "bias"))


def under(prefix: str, rows: tuple) -> tuple:
    """Rows whose names there begin with `prefix`."""
    return tuple((ours, f"{prefix}.{theirs}", *how) for ours, theirs, *how in rows)


def prefixes(tower: str) -> tuple:
    """Aliases of a tower alone, which may lack its name."""
    return ((r"^(embeddings|encoder|head|post_layernorm|pre_layrnorm|final_layer_norm)\.", rf"{tower}.\1."),)


IDS = r"\.position_ids$"  # of older versions
SIGLIP = {"computes": {"gelu": "tanh", "layer_norm_epsilon": 1e-6}, "ignored": IDS}
CLIP = {"computes": {"gelu": "quick", "layer_norm_epsilon": 1e-5}, "ignored": IDS}
OF_TOWERS = PLAIN | {"positions": ("learned",), "pre_logits": (None,), "square": (True,)} | ONE_PATCH
OF_SIGLIP = OF_TOWERS | {"pooling": ("map",), "num_classes": (None,), "stem_bias": (True,), "pre_norm": (False,)}
OF_CLIP = OF_TOWERS | {"pooling": ("token",), "cls_position": (True,), "stem_bias": (False,), "pre_norm": (True,)}


def siglip(spelling: str, patches: tuple, **holds: tuple) -> tuple[Table, Table]:
    """The towers of SigLIP, whose first layer has the rows `patches`."""
    vision = (*dotted("stem", PATCH, patches), *VISION, *dotted("pool", "head", POOL))
    words = (*WORDS, *dotted("head", "head", DENSE))
    return (
        Table(
            spelling, ViTConfig, under("vision_model", vision),
            holds=OF_SIGLIP | holds, aliases=prefixes("vision_model"), **SIGLIP,
        ),
        Table(
            spelling, TextConfig, under("text_model", words),
            holds={"pooling": ("last",), "causal": (False,), "head_bias": (True,), "has_head": (True,)},
            aliases=prefixes("text_model"), **SIGLIP,
        ),
    )  # fmt: skip


CLIP_VISION = (
    ("cls", "embeddings.class_embedding", "11D -> D"),
    *dotted("stem", PATCH, CONV),
    *VISION,
    *dotted("pre_norm", "pre_layrnorm", NORM),
)
CLIP_TOWERS = (
    Table(
        "huggingface", ViTConfig, (*under("vision_model", CLIP_VISION), ("head/kernel", "visual_projection.weight", "IO -> OI")),
        holds=OF_CLIP | {"head_bias": (False,)}, aliases=prefixes("vision_model"), **CLIP,
    ),
    Table(
        "huggingface", TextConfig, (*under("text_model", WORDS), ("head/kernel", "text_projection.weight", "IO -> OI")),
        holds={"pooling": ("end",), "causal": (True,), "head_bias": (False,)}, aliases=prefixes("text_model"),
        ignored=IDS, computes=CLIP["computes"] | {"pooling": "end", "causal": True},
    ),
)  # fmt: skip
SIGLIP_TOWERS = siglip("huggingface", PATCHES)
SIGLIP2_TOWERS = siglip("huggingface_siglip2", LINEAR, naflex=(True, False))


def towers(pair: tuple[Table, Table], rows: tuple, bias: bool) -> Table:
    """The table of a model with these two towers."""
    children = tuple(prefixed(table, name, "") for name, table in zip(("image", "text"), pair))
    return Table(pair[0].spelling, TwoTowersConfig, rows, children=children, holds={"bias": (bias,)}, ignored=IDS)


LOGITS = (("t", "logit_scale"), ("b", "logit_bias"))

# --- BERT

BERT_NORM = tuple((ours, f"LayerNorm.{theirs}") for ours, theirs in NORM)
BERT_BLOCK = (
    *(row for part in ("query", "key", "value") for row in dotted(f"attn/{part}", f"attention.self.{part}", DENSE)),
    *dotted("attn/out", "attention.output.dense", DENSE),
    *dotted("norm1", "attention.output", BERT_NORM),
    *dotted("mlp/fc1", "intermediate.dense", DENSE),
    *dotted("mlp/fc2", "output.dense", DENSE),
    *dotted("norm2", "output", BERT_NORM),
)
BERT = (
    ("stem/embedding", "embeddings.word_embeddings.weight"),
    ("pos_embedding", "embeddings.position_embeddings.weight", "1LD -> LD"),
    ("segment_embedding", "embeddings.token_type_embeddings.weight"),
    *dotted("pre_norm", "embeddings", BERT_NORM),
    *dotted("blocks/{block}", "encoder.layer.{block}", BERT_BLOCK),
    *dotted("pre_logits", "pooler.dense", DENSE),
)
OLD_BERT = ((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))

TABLES = (
    Table(
        "huggingface", ResNetConfig, BIT,
        computes=BIT_COMPUTES, first_unit=0, aliases=((r"^(embedder|encoder|norm)\.", r"bit.\1."),),
    ),
    *(
        Table(spelling, ViTConfig, rows, **options)
        for spelling, block, parts in (("huggingface", "encoder.layer.{block}", BLOCK), ("huggingface_v5", "layers.{block}", BLOCK_V5))
        for rows, options in (
            (vit_rows(block, parts), VIT),
            (deit_rows(block, parts, True), DEIT | {"holds": VIT["holds"] | {"distilled": (True,), "has_head": (True,)}}),
            (deit_rows(block, parts, False), DEIT | {"holds": TOKEN_AS_REGISTER}),
        )
    ),
    *(
        Table(
            spelling, ViTConfig, vit_rows("encoder.layer.{block}", rows, root), holds=holds | {"swiglu": (gated,)},
            aliases=aliases, **DINOV2_FILE,
        )
        for spelling, rows, gated in DINOV2_BLOCKS
        for root, holds, aliases in (
            ("", DINOV2, DINOV2_ROOTS),
            ("dinov2.", DINOV2_HEAD | {"registers": (0,)}, ()),
            ("dinov2_with_registers.", DINOV2_HEAD | {"registers": AtLeast(1)}, ()),
        )
    ),
    Table(
        "huggingface", ViTConfig, DINOV3_ROWS, holds=DINOV3, ignored=r"^embeddings\.mask_token$",
        computes={"gelu": "erf", "layer_norm_epsilon": 1e-5, "positions": "rotary"},
    ),
    *SIGLIP_TOWERS,
    SIGLIP2_TOWERS[0],  # its texts' tower is SigLIP's
    *CLIP_TOWERS,
    Table(
        "huggingface", BertConfig, BERT, holds={"num_classes": (None,)}, aliases=OLD_BERT,
        ignored=rf"{IDS}|^cls\.", computes={"gelu": "erf", "layer_norm_epsilon": 1e-12},
    ),
    towers(SIGLIP_TOWERS, LOGITS, True),
    towers(SIGLIP2_TOWERS, LOGITS, True),
    towers(CLIP_TOWERS, (("t", "logit_scale", "1 -> "),), False),
)  # fmt: skip
