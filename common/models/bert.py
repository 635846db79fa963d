"""BERT as a text tower: a frozen configuration, and the two sizes of the paper."""

import dataclasses
from typing import ClassVar

import numpy as np

from common.models import transformer
from common.models.checks import COUNT, DEPTH, OPTIONAL, POSITIVE, check_fields, choice
from common.models.draws import lecun_normal, normal, ones, zeros
from common.models.family import Arrays, Family, Say, Seen, Shapes, Undecided, dense, norm
from common.models.positions import infer_depth
from common.system.errors import UserError

KINDS = {
    "vocabulary": COUNT, "length": COUNT, "width": COUNT, "depth": DEPTH, "num_heads": COUNT, "mlp_dim": COUNT,
    "num_classes": OPTIONAL, "pre_logits": OPTIONAL, "segments": COUNT, "gelu": choice("tanh", "erf", "quick"),
    "layer_norm_epsilon": POSITIVE,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BertConfig(transformer.BlocksConfig):
    """BERT (https://arxiv.org/abs/1810.04805): tokens int32 [B, L] of segment 0, where token 0 is padding that none attends to.

    The features are the first token's. Sources: `models/proj/flaxformer/bert.py` of google-research/big_vision,
    `architectures/bert/bert.py` of google/flaxformer.

    Parameters, with V = vocabulary, L = length, S = segments, D = width, M = mlp_dim, R = pre_logits, K = classes:
        stem/embedding [V, D], pos_embedding [1, L, D], segment_embedding [S, D], pre_norm/{scale,bias} [D]
        blocks/i/... as in a ViT; a block's norms follow its attention and its MLP
        pre_logits/{kernel [D, R], bias [R]} (where pre_logits is given)
        head/{kernel [D or R, K], bias [K]} (where num_classes is given)
    """

    image_kernel: ClassVar[None] = None

    vocabulary: int
    length: int  # most tokens of a text
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_classes: int | None = None  # width of the projection; None: the features are the output
    pre_logits: int | None = None  # width of a dense layer with tanh before the head: BERT's pooler
    segments: int = 2  # rows of the table of segments, of which the first is used
    gelu: str = "erf"  # tanh in flaxformer, and so in LiT
    layer_norm_epsilon: float = 1e-12

    def __post_init__(self):
        check_fields(self, "A BERT", KINDS)
        if self.width % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide the width of {self.width}; choose a divisor.")

    def check_tokens(self, count: int) -> None:
        """Raise UserError for texts that are longer than the positions."""
        if count > self.length:
            raise UserError(f"The model takes texts of {self.length} tokens at most and these have {count}; cut them.")

    def places(self, length: int) -> int:
        """How many tokens texts must have, where they are made of `length`: as many, or what the model takes at most."""
        return min(length, self.length)

    @property
    def feature_width(self) -> int:
        """Number of features before the head."""
        return self.pre_logits or self.width

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are [in, out]."""
        shapes = {"stem/embedding": (self.vocabulary, self.width), "pos_embedding": (1, self.length, self.width)}
        shapes |= {"segment_embedding": (self.segments, self.width)} | norm("pre_norm", self.width)
        shapes |= transformer.blocks(self)
        shapes |= dense("pre_logits", self.width, self.pre_logits) if self.pre_logits else {}
        return shapes | transformer.head(self.feature_width, self.num_classes, True)


# Width -> heads: those of the paper and of https://arxiv.org/abs/1908.08962 are 64 wide, MiniLM's (2002.10957) 32.
HEADS = {128: 2, 256: 4, 384: 12, 512: 8, 768: 12, 1024: 16}


def infer(seen: Seen) -> BertConfig:
    """The BERT of canonical shapes. Undecided where a head may be of any width."""
    shapes = seen.shapes
    (vocabulary, width), length = shapes["stem/embedding"], shapes["pos_embedding"][1]
    heads = seen.num_heads or seen.facts.get("num_heads") or HEADS.get(width)
    if heads is None:
        raise Undecided("does not tell its number of heads; give --num_heads.")
    return BertConfig(
        vocabulary, length, width, infer_depth(shapes), heads, shapes["blocks/0/mlp/fc1/kernel"][1], seen.num_classes,
        shapes["pre_logits/bias"][0] if "pre_logits/bias" in shapes else None, shapes["segment_embedding"][0],
        **seen.computes,
    )  # fmt: skip


def adapt(arrays: Arrays, config: BertConfig, wanted: BertConfig, say: Say) -> Arrays:
    """Positions for shorter texts: the first ones. Raises UserError for longer texts."""
    if config.length == wanted.length:
        return arrays
    if config.length < wanted.length:
        raise UserError(
            f"The BERT has {config.length} positions and texts have {wanted.length} tokens; choose another."
        )
    say(f"Of {config.length} positions of the BERT the first {wanted.length} are taken.")
    return arrays | {"pos_embedding": np.ascontiguousarray(arrays["pos_embedding"][:, : wanted.length])}


VARIANTS = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}  # width, depth, heads, MLP width
FAMILY = Family(
    config=BertConfig,
    name="BERT",
    variants={},
    sizes=("vocabulary", "width", "depth", "num_heads", "mlp_dim"),
    initial={
        "bert": (("*norm*/scale", ones), ("*/bias", zeros), ("head/kernel", lecun_normal), ("*", normal(0.02))),
    },
    spellings={".npz": ("big_vision",)},
    infer=infer,
    adapt=adapt,
)
