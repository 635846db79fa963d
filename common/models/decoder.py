"""Models that write: a ViT sees the image, and a decoder predicts the tokens of a text about it, one after the other."""

import dataclasses
from typing import Any, ClassVar

from common.models import transformer
from common.models.checks import COUNT, DEPTH, FLAG, LORA, POSITIVE, check_fields, choice
from common.models.draws import glorot_uniform, inverse_width_normal, lecun_normal, normal, ones, zeros
from common.models.family import Config, Family, Seen, Shapes, WithImage, dense, norm
from common.models.positions import infer_depth
from common.models.vit import VIT_VARIANTS, ViTConfig, published_heads
from common.recipes.lora import Lora
from common.system.errors import UserError

KINDS = {
    "vocabulary": COUNT, "length": COUNT, "width": COUNT, "depth": DEPTH, "num_heads": COUNT, "mlp_dim": COUNT,
    "masked": FLAG, "bias": FLAG, "gelu": choice("tanh", "erf", "quick"), "layer_norm_epsilon": POSITIVE, "lora": LORA,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DecoderConfig(WithImage, Config):
    """A ViT without pooling, whose patches [B, P, E] a decoder looks at while it predicts tokens int32 [B, L].

    A block attends to the tokens before, then to the patches, without biases, and has an MLP; what precedes the first
    token is token 0. With `masked` there is one more embedding, that of a token which hides another one: CapPa
    (https://arxiv.org/abs/2306.07915) predicts all tokens at once from such. Sources: `models/proj/cappa/cappa.py` and
    `models/proj/uvim/vtt.py` of google-research/big_vision.

    Parameters, with V = vocabulary, L = length, D = width, M = mlp_dim, E = the image tower's width:
        image/... of the ViT
        stem/embedding [V, D], or [V + 1, D] (masked), pos_embedding [1, L, D]
        blocks/i/norm1/{scale [D], bias [D] (bias)}, blocks/i/attn/{query,key,value,out}/kernel [D, D]
        blocks/i/norm2/..., blocks/i/cross_attn/{query,out}/kernel [D, D], .../{key,value}/kernel [E, D]
        blocks/i/norm3/..., blocks/i/mlp/fc1/{kernel [D, M], bias [M] (bias)}, .../fc2/{kernel [M, D], bias [D] (bias)}
        norm/{scale,bias} [D], head/{kernel [D, V], bias [V]}
    """

    num_classes: ClassVar[None] = None

    image: ViTConfig
    vocabulary: int
    length: int  # most tokens of a text, padding among them
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    masked: bool = False
    bias: bool = True  # of the blocks' norms and MLPs
    gelu: str = "tanh"
    layer_norm_epsilon: float = 1e-6
    lora: Lora | None = None  # in training: matrices that learn in the place of dense kernels, also of the image tower

    def __post_init__(self):
        check_fields(self, "A decoder", KINDS)
        if self.width % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide the width of {self.width}; choose a divisor.")
        if not isinstance(self.image, ViTConfig) or self.image.pooling != "none" or self.image.num_classes:
            raise UserError("A decoder looks at the patches of a ViT; give one with pooling none and without classes.")
        if self.image.naflex:
            raise UserError("A decoder looks at as many patches of every image; give it a ViT for images of one size.")

    def with_classes(self, num_classes: int | None) -> "DecoderConfig":
        """This model. Raises UserError for classes, which it has none of."""
        if num_classes:
            raise UserError(f"A model that writes has no head for {num_classes} classes; give its classes as texts.")
        return self

    def check_given(self, tokens: Any) -> None:
        """Raise UserError where a model got no tokens."""
        if tokens is None:
            raise UserError(
                "The model rates the tokens of texts about images and got images alone; give tokens int [B, L], too, as "
                "tokenize(model, texts) makes them, or call model.features(images)."
            )

    def check_tokens(self, count: int) -> None:
        """Raise UserError for texts of more tokens than there are positions."""
        if count > self.length:
            raise UserError(f"The model writes at most {self.length} tokens and these are {count}; cut them.")

    def places(self, length: int) -> int:
        """How many tokens texts must have, where they are made of `length`."""
        return self.length

    @property
    def feature_width(self) -> int:
        """Number of features of an image."""
        return self.image.width

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are [in, out]."""
        shapes = {"stem/embedding": (self.vocabulary + self.masked, self.width)}
        shapes |= {"pos_embedding": (1, self.length, self.width)}
        for i in range(self.depth):
            shapes |= self.block(f"blocks/{i}")
        return shapes | norm("norm", self.width) | dense("head", self.width, self.vocabulary)

    def block(self, name: str) -> Shapes:
        """The shapes of one block."""
        width, seen = self.width, self.image.width
        shapes = norm(f"{name}/norm1", width) | transformer.attention(f"{name}/attn", width, ())
        shapes |= norm(f"{name}/norm2", width) | transformer.attention(f"{name}/cross_attn", width, (), seen)
        shapes |= norm(f"{name}/norm3", width) | transformer.mlp(f"{name}/mlp", width, self.mlp_dim)
        return {key: shape for key, shape in shapes.items() if self.bias or not key.endswith("/bias")}


def infer(seen: Seen) -> DecoderConfig:
    """The decoder of canonical shapes."""
    shapes, stated = seen.shapes, seen.facts
    rows, width = shapes["stem/embedding"]
    vocabulary, depth, mlp_dim = shapes["head/kernel"][1], infer_depth(shapes), shapes["blocks/0/mlp/fc1/kernel"][1]
    image = dataclasses.replace(seen.children["image"], pooling="none", num_classes=None)
    heads = seen.num_heads or stated.get("num_heads") or published_heads(width, image.depth, mlp_dim)
    sizes = shapes["pos_embedding"][1], width, depth, heads, mlp_dim
    return DecoderConfig(
        image, vocabulary, *sizes, masked=rows > vocabulary, bias="blocks/0/norm1/bias" in shapes, **seen.computes
    )


def cappa(name: str, patch: int, size: int, depth: int, **changes) -> DecoderConfig:
    """CapPa: `configs/proj/cappa/pretrain.py` of big_vision, whose decoder has the width of the image tower."""
    width, layers, heads, mlp_dim, _ = VIT_VARIANTS[name]
    image = ViTConfig((patch, patch), width, layers, heads, mlp_dim, None, (size, size), "none", cls_position=False)
    return DecoderConfig(
        image, **{"vocabulary": 32_000, "length": 64, "masked": True, "bias": False} | changes,
        width=width, depth=depth, num_heads=heads, mlp_dim=mlp_dim,
    )  # fmt: skip


def vtt(name: str, patch: int, size: int, depth: int, **changes) -> DecoderConfig:
    """What writes UViM's codes: `configs/proj/uvim/train_*_pretrained.py` of big_vision. Token 0 is none, and k + 1 code k."""
    return cappa(
        name, patch, size, depth, **{"vocabulary": 4097, "length": 256, "masked": False, "bias": True} | changes
    )


FAMILY = Family(
    config=DecoderConfig,
    name="model that writes",
    variants={
        "CapPa-T/8": cappa("T", 8, 32, 2, vocabulary=1000, length=16),
        "CapPa-S/16": cappa("S", 16, 224, 6),
        "CapPa-B/16": cappa("B", 16, 224, 6),
        "Cap-B/16": cappa("B", 16, 224, 6, masked=False),
        "VTT-T/8": vtt("T", 8, 32, 4, vocabulary=257, length=16),
        "VTT-B/16": vtt("B", 16, 512, 12),
        "VTT-L/16": vtt("L", 16, 512, 24),
    },
    sizes=("vocabulary", "length", "width", "depth", "num_heads", "mlp_dim", "masked", "bias"),
    initial={
        "big_vision": (
            ("head/*", zeros), ("*norm*/scale", ones), ("*norm*/bias", zeros), ("*/mlp/*/bias", normal(1e-6)),
            ("*/mlp/*/kernel", glorot_uniform), ("stem/embedding", normal(1.0)), ("pos_embedding", inverse_width_normal),
            ("*", lecun_normal),
        ),
    },
    spellings={".npz": ("big_vision",)},
    infer=infer,
)  # fmt: skip
