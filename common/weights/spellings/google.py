"""The spellings of Google's code bases: big_transfer, vision_transformer and big_vision, whose names stand in the
modules of the families.

    big_transfer              BiT's `.npz` files
    big_transfer_h5           ... Keras `.h5` files
    vision_transformer        ViT, hybrids and Mixer, in the numbering of the published `.npz` files
    vision_transformer_linen  ... ViT and hybrids after `convert_pre_linen`, as the code saves them today; LiT
    big_vision                ViT, Mixer, `bit` (ResNet V1), `bit_paper` (BiT); with or without `params/` or `opt/target/`
    big_vision_scan           ... ViT, and the towers of image-text models, with the blocks stacked

A model that writes holds its ViT below `encoder/` and its decoder below `decoder/` (`models/proj/cappa/cappa.py`); that of
UViM's second stage has other names for parts of the ViT (`models/proj/uvim/vtt.py`, spelling `big_vision_uvim`). That of its
first stage (`models/proj/uvim/vit.py`) holds the parameters below `params/` and the codebook below `state/`.

An image-text model holds its towers below `img/` and `txt/`, and `t` and `b` beside them; CLIPPO has no `txt/`. Towers are
ViT, Mixer and ResNets as they are alone, text transformers, and the BERT of flaxformer. A file may hold one tower alone,
with or without these prefixes.

Sources: `utils.py`, `models/vit.py`, `models/bit_paper.py` of google-research/big_vision; `vit_jax/checkpoint.py` of
google-research/vision_transformer; `architectures/bert/bert.py` of google/flaxformer.
"""

from common.models import (
    BertConfig,
    DecoderConfig,
    MixerConfig,
    ResNetConfig,
    ResNetV1Config,
    TextConfig,
    TwoTowersConfig,
    ViTConfig,
    VqVaeConfig,
)  # fmt: skip
from common.models.discrete import MAPS
from common.models.vit import PLAIN
from common.weights.rows import slashed
from common.weights.spellings import bit, mixer, resnet_v1, vit
from common.weights.table import Table, prefixed

TANH = {"gelu": "tanh", "layer_norm_epsilon": 1e-6}
HEADS = {"DNK": "D(NK) -> DNK", "NK": "(NK) -> NK", "NKD": "(NK)D -> NKD"}
PREFIXES = ((r"^(params|opt/target)/", ""),)
IMAGE = ((r"^(params/|opt/target/)?img/", ""), *PREFIXES)  # of a tower alone
WORDS = ((r"^(params/|opt/target/)?txt/", ""), *PREFIXES)
STATE = r"^(opt|chrono|extra)/"  # what stands beside the parameters


def parts(ours: str, theirs: str, table: tuple) -> tuple:
    """Rows of a block that is made of norms, attention and MLPs."""
    rows = [
        (f"{ours_part}/{row[0]}", f"{theirs_part}/{row[1]}", *(HEADS[shape] for shape in row[2:]))
        for ours_part, theirs_part, part in table
        for row in part
    ]
    return slashed(ours, theirs, tuple(rows))


NAFLEX_STEM = (
    ("stem/kernel", "embedding/kernel", "HWIO -> (HWI)O"),
    ("stem/bias", "embedding/bias"),
    ("cls", "cls"),
    *slashed("image_norm", "patchln_pre", vit.NORM),
    *slashed("embed_norm", "patchln_post", vit.NORM),
)


def naflex_rows(rows: tuple) -> tuple:
    """Rows of `models/proj/image_text/naflex_vit.py`, which takes patches: a matrix for a kernel, and a grid of positions."""
    rest = tuple(row for row in rows if not row[0].startswith(("stem/", "cls", "pos_embedding")))
    return (*NAFLEX_STEM, ("pos_embedding", "pos_embedding", "1(YX)D -> YXD"), *rest)


def vit_rows(spelling: str, block: str = "encoderblock_{block}") -> tuple:
    """Rows of a ViT without its backbone."""
    names = "big_vision" if spelling == "big_vision_scan" else spelling
    return (
        *vit.STEM,
        ("pos_embedding", vit.POSITIONS[names]),
        *parts("blocks/{block}", f"Transformer/{block}", vit.BLOCKS[names]),
        ("pool/probe", "MAPHead_0/probe"),
        *parts("pool", "MAPHead_0", vit.POOL),
        *vit.TAIL,
    )


RESNET_V1 = (*resnet_v1.STEM, *slashed("blocks/{cell}", "block{stage}/unit{unit}", resnet_v1.UNIT))
MIXER = (*mixer.STEM, *slashed("blocks/{block}", "MixerBlock_{block}", mixer.BLOCK), *mixer.TAIL)
BIT_PAPER_UNIT = tuple((*row, "C -> 111C") if "gn" in row[1] else row for row in (
    ("norm1/scale", "gn1/scale"), ("norm1/bias", "gn1/bias"), ("conv1/kernel", "conv1/kernel"),
    ("norm2/scale", "gn2/scale"), ("norm2/bias", "gn2/bias"), ("conv2/kernel", "conv2/kernel"),
    ("norm3/scale", "gn3/scale"), ("norm3/bias", "gn3/bias"), ("conv3/kernel", "conv3/kernel"),
    ("proj/kernel", "conv_proj/kernel"),
))  # fmt: skip
BIT_PAPER = (
    ("stem/kernel", "root_block/conv_root/kernel"),
    *slashed("blocks/{cell}", "block{stage}/unit{unit:02d}", BIT_PAPER_UNIT),
    ("norm/scale", "norm-pre-head/scale", "C -> 111C"),
    ("norm/bias", "norm-pre-head/bias", "C -> 111C"),
    *resnet_v1.HEAD,
)
BIT, BIT_H5 = (
    (
        *bit.STEM,
        *slashed("blocks/{cell}", "resnet/block{stage}/unit{unit:02d}", bit.UNIT),
        *((*row, head) if row[0] == "head/kernel" else row for row in bit.TAIL),
    )
    for head in ("IO -> 11IO", "IO -> IO")
)
NUMBERED = ((r"/standardized_conv2d_\d+/", "/standardized_conv2d/"),)  # some published files count their layers
OLD_POSITIONS = ((r"^Transformer/pos_embedding$", "pos_embedding"),)  # big_vision before 2022

OF_CLIP = PLAIN | {"stem_bias": (True,), "pre_norm": (False,), "head_bias": (True,)}  # CLIP's towers have others
ONE_PATCH = {"kernel_size": (None,)}  # no FlexiViT
LEARNED = {"positions": ("learned",), "cls_position": (True,)} | OF_CLIP | ONE_PATCH
CLASS_TOKEN = {"pooling": ("token",)} | LEARNED
VISION_TRANSFORMER = {"pooling": ("token", "gap", "none")} | LEARNED
BIG_VISION = {"pooling": ("token", "gap", "map", "first", "none"), "cls_position": (False,)} | OF_CLIP
NAFLEX = BIG_VISION | {"naflex": (True,), "square": (True,), "patch_norms": ((), ("pre",), ("post",), ("pre", "post"))}
BIG_VISION_FILE = {"aliases": (*IMAGE, *OLD_POSITIONS), "ignored": STATE}

HYBRID = (prefixed(Table("vision_transformer", ResNetV1Config, RESNET_V1), "backbone", ""),)  # beside the ViT's names

POSED = ("pos_embedding", "pos_embedding")  # of a text transformer


def text_rows(block: str) -> tuple:
    """Rows of a text transformer: the encoder of a ViT, under another name."""
    encoder = (row for row in vit_rows("big_vision", block) if row[0].startswith(("blocks", "norm", "pool/", "head")))
    rows = ((ours, theirs.replace("Transformer/", "Encoder_0/"), *how) for ours, theirs, *how in encoder)
    return (("stem/embedding", "Embed_0/embedding"), POSED, *rows)


DENSE = (("kernel", "kernel"), ("bias", "bias"))
BERT_BLOCK = (
    *(
        row
        for part in ("query", "key", "value")
        for row in slashed(f"attn/{part}", f"attention_block/attention_layer/{part}", DENSE)
    ),
    *slashed("attn/out", "attention_block/dense_layer", DENSE),
    *slashed("norm1", "attention_block/layer_norm", vit.NORM),
    *slashed("mlp/fc1", "mlp_block/mlp/dense_layer", DENSE),
    *slashed("mlp/fc2", "mlp_block/dense_layer", DENSE),
    *slashed("norm2", "mlp_block/layer_norm", vit.NORM),
)
BERT = (
    ("stem/embedding", "BertEncoder_0/embedder/embedders_token_ids/embedding"),
    ("pos_embedding", "BertEncoder_0/embedder/embedders_position_ids/embedding", "1LD -> LD"),
    ("segment_embedding", "BertEncoder_0/embedder/embedders_segment_ids/embedding"),
    *slashed("pre_norm", "BertEncoder_0/layer_norm", vit.NORM),
    *slashed("blocks/{block}", "BertEncoder_0/encoder_block/layer_sequence/layers_{block}", BERT_BLOCK),
    *slashed("head", "head", DENSE),
)

BIG_VISION_TEXT = {"causal": (False,), "head_bias": (True,), "pooling": ("last", "first", "gap", "max", "map")}
BERT_COMPUTES = {"gelu": "tanh", "layer_norm_epsilon": 1e-12}  # as flaxformer; other BERTs: erf
TABLES = (
    Table("big_transfer", ResNetConfig, BIT, aliases=NUMBERED),
    Table("big_transfer_h5", ResNetConfig, BIT_H5),
    *(
        Table(
            spelling,
            ViTConfig,
            vit_rows(spelling),
            children=children,
            holds=VISION_TRANSFORMER,
            computes=TANH,
            aliases=PREFIXES,
            ignored=STATE,
        )
        for spelling in ("vision_transformer", "vision_transformer_linen")
        for children in ((), HYBRID)
    ),
    Table("big_vision", ViTConfig, vit_rows("big_vision"), holds=BIG_VISION, computes=TANH, **BIG_VISION_FILE),
    Table(
        "big_vision_scan",
        ViTConfig,
        vit_rows("big_vision_scan", "encoderblock"),
        holds=BIG_VISION,
        computes=TANH,
        **BIG_VISION_FILE,
    ),
    *(
        Table(
            spelling,
            ViTConfig,
            naflex_rows(vit_rows(spelling, block)),
            holds=NAFLEX,
            computes=TANH | {"naflex": True},
            **BIG_VISION_FILE,
        )
        for spelling, block in (("big_vision", "encoderblock_{block}"), ("big_vision_scan", "encoderblock"))
    ),
    Table("vision_transformer", MixerConfig, MIXER, computes=TANH, aliases=PREFIXES, ignored=STATE),
    Table("big_vision", MixerConfig, MIXER, computes=TANH, aliases=IMAGE, ignored=STATE),
    Table("big_vision", ResNetV1Config, (*RESNET_V1, *resnet_v1.HEAD), aliases=IMAGE, ignored=STATE),
    Table("big_vision", ResNetConfig, BIT_PAPER, aliases=IMAGE, ignored=STATE),
)
TEXT_FILE = {"aliases": WORDS, "ignored": STATE, "computes": TANH, "holds": BIG_VISION_TEXT}
TEXT_FILE |= {"added": (("Encoder_0/pos_embedding", "pos_embedding"),)}  # positions that were added twice, by mistake
TEXT = {
    "big_vision": Table("big_vision", TextConfig, text_rows("encoderblock_{block}"), **TEXT_FILE),
    "big_vision_scan": Table("big_vision_scan", TextConfig, text_rows("encoderblock"), **TEXT_FILE),
    "bert": Table(
        "big_vision",
        BertConfig,
        BERT,
        aliases=WORDS,
        ignored=STATE,
        holds={"pre_logits": (None,)},
        computes=BERT_COMPUTES,
    ),
}
TEXTS = (("big_vision", TEXT["big_vision"]), ("big_vision", TEXT["bert"]), ("big_vision_scan", TEXT["big_vision_scan"]))


def towers(spelling: str, image: Table, text: Table | None) -> Table:
    """The table of an image-text model with these towers."""
    rows = (("t", "t"), ("b", "b")) if text else (("t", "t"),)
    children = (prefixed(image, "image", "img/"), *((prefixed(text, "text", "txt/"),) if text else ()))
    return Table(spelling, TwoTowersConfig, rows, children=children, aliases=PREFIXES, ignored=STATE)


LIT = next(table for table in TABLES if table.spelling == "vision_transformer_linen" and not table.children)
TABLES += (*TEXT.values(),)
TABLES += tuple(
    towers(spelling, image, text)
    for spelling, text in (*TEXTS, ("big_vision", None))
    for image in TABLES
    if image.spelling == spelling and image.family in (ViTConfig, MixerConfig, ResNetV1Config, ResNetConfig)
)  # fmt: skip
TABLES += tuple(towers("vision_transformer_linen", LIT, TEXT[text]) for text in ("big_vision", "bert"))

DECODER_BLOCK = (
    ("norm1", "LayerNorm1", vit.NORM),
    ("attn", "SelfAttn", vit.ATTENTION),
    ("norm2", "LayerNorm2", vit.NORM),
    ("cross_attn", "CrossAttn", vit.ATTENTION),
    ("norm3", "LayerNorm3", vit.NORM),
    ("mlp", "MLP", vit.MLP),
)
DECODER = (
    ("stem/embedding", "decoder/EmbedTargets/embedding"),
    ("pos_embedding", "pos_embedding_decoder"),
    *parts("blocks/{block}", "decoder/EncDecBlock{block}", DECODER_BLOCK),
    *slashed("norm", "decoder/LayerNorm", vit.NORM),
    *slashed("head", "decoder/LogitsDense", DENSE),
)
BIG_VISION_VIT = next(table for table in TABLES if (table.spelling, table.family) == ("big_vision", ViTConfig))
UVIM_NAMES = (("embedding/", "EmbedPatches/"), ("Transformer/", "encoder/"), ("pos_embedding", "pos_embedding_encoder"))


def uvim_name(name: str) -> str:
    """What `models/proj/uvim/vtt.py` calls a parameter of a ViT."""
    return next((f"{theirs}{name.removeprefix(ours)}" for ours, theirs in UVIM_NAMES if name.startswith(ours)), name)


UVIM_VIT = Table(
    "big_vision_uvim", ViTConfig, tuple((ours, uvim_name(theirs), *how) for ours, theirs, *how in vit_rows("big_vision")),
    holds=BIG_VISION, computes=TANH,
)  # fmt: skip
TABLES += tuple(
    Table(
        spelling, DecoderConfig, DECODER, children=(prefixed(image, "image", theirs),),
        computes=TANH, aliases=PREFIXES, ignored=STATE,
    )
    for spelling, image, theirs in (("big_vision", BIG_VISION_VIT, "encoder/"), ("big_vision_uvim", UVIM_VIT, ""))
)  # fmt: skip


def halves() -> tuple:
    """Rows of the encoder and the decoder of a VQ-VAE."""
    rows = ()
    for half, short in (("encoder", "enc"), ("decoder", "dec")):
        rows += (
            *slashed(f"{half}/context", f"ctx_{short}_embedding", DENSE),
            (f"{half}/pos_embedding", f"pos_embedding_{half}"),
            *parts(f"{half}/blocks/{{block}}", f"{half}/encoderblock_{{block}}", vit.BLOCKS["big_vision"]),
            *slashed(f"{half}/norm", f"{half}/encoder_norm", vit.NORM),
        )
    return rows


def map_rows(name: str) -> tuple:
    """Rows of what is read and predicted of one map."""
    return (
        (f"encoder/stem/{name}/kernel", f"embedding_{name}/kernel", "(CP)D -> CPD"),
        (f"encoder/stem/{name}/bias", f"embedding_{name}/bias"),
        (f"decoder/head/{name}/kernel", f"head_{name}/kernel", "D(CP) -> DCP"),
        (f"decoder/head/{name}/bias", f"head_{name}/bias", "(CP) -> CP"),
    )


VQVAE = (
    *(row for maps in MAPS.values() for name in maps.names for row in map_rows(name)),
    *halves(),
    ("encoder/squeeze", "bottleneck_downsample"),
    *slashed("encoder/head", "encoder_head", DENSE),
    *slashed("decoder/stem", "decoder_stem", DENSE),
    ("decoder/spread", "bottleneck_upsample"),
)
CODEBOOK = (("codebook/dictionary", "state/dictionary"), ("codebook/counts", "state/counts"))
TABLES += (
    Table(
        "big_vision", VqVaeConfig, (*((ours, f"params/{theirs}", *how) for ours, theirs, *how in VQVAE), *CODEBOOK),
        computes=TANH, aliases=((r"^params/(Enc|Dec)oder/", lambda found: found[0].lower()),), ignored=STATE,
    ),
)  # fmt: skip
