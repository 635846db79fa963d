"""Vision Transformers and hybrids: a frozen configuration, and the variants of the papers as rows of tables."""

import dataclasses

import numpy as np

from common.models.checks import COUNT, DEPTH, FLAG, OPTIONAL, PAIR, POSITIVE, RATE, Kind, check_fields, choice
from common.models.resnet import ResNetV1Config, Shapes, check_image, dense, norm
from common.system.errors import UserError

KINDS = {
    "patch_size": PAIR, "width": COUNT, "depth": DEPTH, "num_heads": COUNT, "mlp_dim": COUNT, "num_classes": OPTIONAL,
    "image_size": PAIR, "pooling": choice("token", "gap", "map", "first", "none"),
    "positions": choice("learned", "sincos2d"), "cls_position": FLAG, "pre_logits": OPTIONAL,
    "gelu": choice("tanh", "erf"), "layer_norm_epsilon": POSITIVE, "dropout": RATE,
    "backbone": Kind(lambda value: value is None or isinstance(value, ResNetV1Config), "a ResNet V1, or none"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Vision Transformer (https://arxiv.org/abs/2010.11929); with a backbone, a hybrid of ResNet and ViT.

    Sources: `vit_jax/models_vit.py` of google-research/vision_transformer, `models/vit.py` of
    google-research/big_vision, kakaobrain/coyo-vit.

    Parameters, with D = width, M = mlp_dim, L = positions, R = pre_logits or D, K = classes. Attention kernels are
    matrices: the columns of query, key and value are ordered by head and then within it, like the rows of out.
        backbone/... of ResNetV1Config without its head (hybrids)
        stem/kernel [patch height, patch width, C, D], stem/bias [D], with C = 3 or the backbone's width
        cls [1, 1, D] (pooling token), pos_embedding [1, L, D] (learned)
        blocks/i/norm1/{scale,bias} [D], blocks/i/attn/{query,key,value,out}/{kernel [D, D], bias [D]}
        blocks/i/norm2/{scale,bias} [D], blocks/i/mlp/fc1/{kernel [D, M], bias [M]}, .../fc2/{kernel [M, D], bias [D]}
        norm/{scale,bias} [D]
        pool/{probe [1, 1, D], attn/..., norm/..., mlp/...} (pooling map; the shapes of a block)
        pre_logits/{kernel [D, R], bias [R]} (where pre_logits is given)
        head/{kernel [R, K], bias [K]} (where num_classes is given)
    """

    patch_size: tuple[int, int]  # height and width, of the image or of the backbone's feature map
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_classes: int | None  # None: no head, the model's output are its features
    image_size: tuple[int, int] = (224, 224)  # height and width in pixels; fixes the grid of learned positions
    pooling: str = "token"  # gap: mean of all tokens; map: attention; first: first patch; none: every token has logits
    positions: str = "learned"
    cls_position: bool = True  # False, in big_vision: positions are added to the patches only
    pre_logits: int | None = None  # width of a dense layer with tanh before the head
    gelu: str = "tanh"  # in Google's models; erf in timm's and Hugging Face's
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.0  # in training, after the positions, the attention, the GELU and the MLP
    backbone: ResNetV1Config | None = None

    def __post_init__(self):
        check_fields(self, "A ViT", KINDS)
        if self.width % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide the width of {self.width}; choose a divisor.")
        if self.positions == "sincos2d" and self.width % 4:
            raise UserError(f"The positions sincos2d need a width that 4 divides, not {self.width}; use learned ones.")
        if min(self.grid) < 1:
            raise UserError(f"An image of {self.image_size} pixels is smaller than one patch of {self.patch_size}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        stride = self.backbone.stride if self.backbone else 1
        return tuple(-(-size // stride) // patch for size, patch in zip(self.image_size, self.patch_size))

    @property
    def num_positions(self) -> int:
        """Rows of `pos_embedding`; the first belongs to the class token where it has a position."""
        return self.grid[0] * self.grid[1] + (self.pooling == "token" and self.cls_position)

    @property
    def feature_width(self) -> int:
        """Number of features before the head."""
        return self.pre_logits or self.width

    @property
    def num_branches(self) -> int:
        """Residual branches, which stochastic depth may drop."""
        return 2 * self.depth

    @property
    def num_dropouts(self) -> int:
        """Places at which dropout acts."""
        return 1 + 3 * self.depth

    def check_image(self, height: int, width: int) -> None:
        """Raise UserError for images of another size than the positions are made for."""
        check_image(self.image_size, (height, width))

    def parameter_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        backbone = self.backbone.parameter_shapes() if self.backbone else {}
        shapes = {f"backbone/{name}": shape for name, shape in backbone.items()}
        shapes |= dense("stem", *self.patch_size, self.backbone.width if self.backbone else 3, self.width)
        if self.pooling == "token":
            shapes["cls"] = (1, 1, self.width)
        if self.positions == "learned":
            shapes["pos_embedding"] = (1, self.num_positions, self.width)
        for i in range(self.depth):
            shapes |= norm(f"blocks/{i}/norm1", self.width) | self._attention(f"blocks/{i}/attn")
            shapes |= norm(f"blocks/{i}/norm2", self.width) | self._mlp(f"blocks/{i}/mlp")
        shapes |= norm("norm", self.width)
        if self.pooling == "map":
            shapes |= {"pool/probe": (1, 1, self.width)} | self._attention("pool/attn")
            shapes |= norm("pool/norm", self.width) | self._mlp("pool/mlp")
        if self.pre_logits:
            shapes |= dense("pre_logits", self.width, self.pre_logits)
        return shapes if self.num_classes is None else shapes | dense("head", self.feature_width, self.num_classes)

    def _attention(self, name: str) -> Shapes:
        layers = [dense(f"{name}/{part}", self.width, self.width) for part in ("query", "key", "value", "out")]
        return {key: shape for layer in layers for key, shape in layer.items()}

    def _mlp(self, name: str) -> Shapes:
        return dense(f"{name}/fc1", self.width, self.mlp_dim) | dense(f"{name}/fc2", self.mlp_dim, self.width)


def sincos2d(rows: int, columns: int, width: int) -> np.ndarray:
    """float64 [1, rows * columns, width] fixed positions: sine and cosine of the column, then of the row.

    Source: https://arxiv.org/abs/2104.02057 as in `posemb_sincos_2d` of big_vision's models/vit.py.
    """
    row, column = (index.reshape(-1, 1) for index in np.mgrid[:rows, :columns])
    frequency = 1e-4 ** (np.arange(width // 4) / (width // 4 - 1))
    waves = [wave(index * frequency) for index in (column, row) for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1)[None]


def resize_positions(positions: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    """`pos_embedding` [1, L, D] of one grid of patches for another: bilinear, with aligned corners.

    A row for the class token stays as it is. The originals call `scipy.ndimage.zoom(order=1)`, which is the same.
    """
    num_patches = grid[0] * grid[1]
    values = positions[0, -num_patches:].astype(np.float64).reshape(*grid, -1)
    for axis, (old, new) in enumerate(zip(grid, new_grid)):
        places = np.linspace(0, old - 1, new)
        below = places.astype(int)
        weight = (places - below).reshape(-1, *[1] * (2 - axis))
        above = values.take(np.minimum(below + 1, old - 1), axis)
        values = (1 - weight) * values.take(below, axis) + weight * above
    rows = values.reshape(new_grid[0] * new_grid[1], -1).astype(positions.dtype)
    return np.concatenate([positions[0, :-num_patches], rows])[None]


# Table 1 of the ViT paper and table 2 of https://arxiv.org/abs/2106.04560; mu, M, So400m, g-opt and G-opt: big_vision.
VIT_VARIANTS = {  # name -> (width, depth, heads, MLP width, patch sizes of published models)
    "mu": (32, 1, 2, 128, (16,)),
    "Ti": (192, 12, 3, 768, (16,)),
    "S": (384, 12, 6, 1536, (16, 32)),
    "M": (512, 12, 8, 2048, (16, 32)),
    "B": (768, 12, 12, 3072, (8, 16, 32)),
    "L": (1024, 24, 16, 4096, (14, 16, 32)),
    "So400m": (1152, 27, 16, 4304, (14, 16)),
    "H": (1280, 32, 16, 5120, (14,)),
    "g": (1408, 40, 16, 6144, (14,)),
    "g-opt": (1536, 40, 16, 6144, (14, 16)),
    "G": (1664, 48, 16, 8192, (14,)),
    "G-opt": (1536, 48, 16, 8192, (14,)),
    "e": (1792, 56, 16, 15360, (14,)),
}

HYBRIDS = {  # name -> (ViT variant, patch size on the feature map, num_units); vision_transformer's configs/models.py
    "R+ViT-Ti/16": ("Ti", 8, ()),  # its name tells the stride of the patches in pixels at half of the size: it is 32
    "R26+ViT-S/32": ("S", 1, (2, 2, 2, 2)),
    "R26+ViT-B/32": ("B", 1, (2, 2, 2, 2)),
    "R50+ViT-B/16": ("B", 1, (3, 4, 9)),
    "R50+ViT-L/32": ("L", 1, (3, 4, 6, 3)),
}
