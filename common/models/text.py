"""Text transformers: a frozen configuration for those of big_vision and of CLIP."""

import dataclasses
from typing import ClassVar

from common.models import transformer
from common.models.checks import COUNT, DEPTH, FLAG, OPTIONAL, POSITIVE, check_fields, choice
from common.models.draws import inverse_width_normal, lecun_normal
from common.models.family import Family, Seen, Shapes, norm
from common.models.positions import infer_depth
from common.models.vit import VIT, published_heads
from common.system.errors import UserError

KINDS = {
    "vocabulary": COUNT, "length": COUNT, "width": COUNT, "depth": DEPTH, "num_heads": COUNT, "mlp_dim": COUNT,
    "num_classes": OPTIONAL, "pooling": choice("last", "first", "gap", "max", "map", "end"), "causal": FLAG,
    "gelu": choice("tanh", "erf", "quick"), "layer_norm_epsilon": POSITIVE, "head_bias": FLAG,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TextConfig(transformer.BlocksConfig):
    """Transformer over tokens int32 [B, L], all of which are attended to, padding as well.

    Sources: `models/proj/image_text/text_transformer.py` of google-research/big_vision, `clip/model.py` of openai/CLIP.

    Parameters, with V = vocabulary, L = length, D = width, M = mlp_dim, K = classes:
        stem/embedding [V, D], pos_embedding [1, L, D]
        blocks/i/... as in a ViT, norm/{scale,bias} [D], pool/... as in a ViT (pooling map)
        head/{kernel [D, K], bias [K] (head_bias)} (where num_classes is given)
    """

    image_kernel: ClassVar[None] = None

    vocabulary: int
    length: int  # tokens of a text, padding among them
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_classes: int | None = None  # width of the projection; None: the features are the output
    pooling: str = "last"  # token; or the first, gap or max of all, map: attention, end: the one of the greatest number
    causal: bool = False  # whether a token sees those before it only
    gelu: str = "tanh"  # of big_vision; quick in OpenAI's CLIP, erf in others
    layer_norm_epsilon: float = 1e-6
    head_bias: bool = True

    def __post_init__(self):
        check_fields(self, "A text transformer", KINDS)
        if self.width % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide the width of {self.width}; choose a divisor.")

    def check_tokens(self, count: int) -> None:
        """Raise UserError for texts of another length than the positions are made for."""
        if count != self.length:
            raise UserError(f"The model takes texts of {self.length} tokens and these have {count}; pad or cut them.")

    def places(self, length: int) -> int:
        """How many tokens texts must have, where they are made of `length`."""
        return self.length

    @property
    def feature_width(self) -> int:
        """Number of features before the head."""
        return self.width

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are [in, out]."""
        shapes = {"stem/embedding": (self.vocabulary, self.width), "pos_embedding": (1, self.length, self.width)}
        shapes |= transformer.blocks(self) | norm("norm", self.width)
        shapes |= transformer.attention_pool(self.width, self.mlp_dim) if self.pooling == "map" else {}
        return shapes | transformer.head(self.width, self.num_classes, self.head_bias)


def infer(seen: Seen) -> TextConfig:
    """The text transformer of canonical shapes."""
    shapes, stated = seen.shapes, seen.facts
    vocabulary, width = shapes["stem/embedding"]
    depth, mlp_dim = infer_depth(shapes), shapes["blocks/0/mlp/fc1/kernel"][1]
    classes = shapes["head/kernel"][1] if "head/kernel" in shapes else None
    pooling = "map" if "pool/probe" in shapes else stated.get("pooling", seen.computes.get("pooling", "last"))
    return TextConfig(
        vocabulary, shapes["pos_embedding"][1], width, depth,
        seen.num_heads or stated.get("num_heads") or published_heads(width, depth, mlp_dim), mlp_dim, classes,
        **{"causal": stated.get("causal", False)} | seen.computes | {"pooling": pooling},
        head_bias="head/bias" in shapes or classes is None,
    )  # fmt: skip


HEAD = (("head/kernel", lecun_normal),)  # a projection, not a classifier: not of zeros
FAMILY = Family(
    config=TextConfig,
    name="text transformer",
    variants={},
    sizes=("vocabulary", "length", "width", "depth", "num_heads", "mlp_dim"),
    initial={
        "big_vision": (
            *HEAD, *VIT, ("stem/embedding", inverse_width_normal), ("pos_embedding", inverse_width_normal), ("*", lecun_normal),
        )
    },
    spellings={".npz": ("big_vision",)},
    infer=infer,
)  # fmt: skip
