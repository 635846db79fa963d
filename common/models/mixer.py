"""MLP-Mixer: a frozen configuration, and the variants of the paper as rows of a table."""

import dataclasses

from common.models.checks import COUNT, DEPTH, LORA, OPTIONAL, PAIR, POSITIVE, check_fields, choice
from common.models.draws import HEAD_AND_NORMS, lecun_normal, zeros
from common.models.family import Arrays, Config, Family, Say, Seen, Shapes, check_image, dense, norm
from common.models.positions import infer_depth, infer_grid
from common.recipes.lora import Lora
from common.system.errors import UserError

KINDS = {
    "patch_size": PAIR, "width": COUNT, "depth": DEPTH, "tokens_mlp_dim": COUNT, "channels_mlp_dim": COUNT,
    "num_classes": OPTIONAL, "image_size": PAIR, "gelu": choice("tanh", "erf"), "layer_norm_epsilon": POSITIVE,
    "lora": LORA,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MixerConfig(Config):
    """MLP-Mixer (https://arxiv.org/abs/2105.01601).

    Sources: `vit_jax/models_mixer.py` of google-research/vision_transformer, `models/mlp_mixer.py` of
    google-research/big_vision.

    Parameters, with D = width, L = number of patches, T = tokens_mlp_dim, C = channels_mlp_dim, K = classes:
        stem/kernel [patch height, patch width, 3, D], stem/bias [D]
        blocks/i/norm1/{scale,bias} [D]
        blocks/i/token_mixing/fc1/{kernel [L, T], bias [T]}, .../fc2/{kernel [T, L], bias [L]}
        blocks/i/norm2/{scale,bias} [D]
        blocks/i/channel_mixing/fc1/{kernel [D, C], bias [C]}, .../fc2/{kernel [C, D], bias [D]}
        norm/{scale,bias} [D], head/{kernel [D, K], bias [K]} (where num_classes is given)
    """

    patch_size: tuple[int, int]
    width: int
    depth: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    num_classes: int | None  # None: no head, the model's output are its features
    image_size: tuple[int, int] = (224, 224)  # height and width in pixels; fixes the width of the token mixing
    gelu: str = "tanh"  # erf in timm's models
    layer_norm_epsilon: float = 1e-6
    lora: Lora | None = None  # in training: matrices that learn in the place of dense kernels

    def __post_init__(self):
        check_fields(self, "A Mixer", KINDS)
        if any(size % patch for size, patch in zip(self.image_size, self.patch_size)):
            raise UserError(f"Patches of {self.patch_size} do not divide an image of {self.image_size} pixels.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return tuple(size // patch for size, patch in zip(self.image_size, self.patch_size))

    @property
    def patch_px(self) -> tuple[int, int]:
        """Pixels of the image per row and column of patches."""
        return self.patch_size

    @property
    def feature_width(self) -> int:
        """Number of features before the head."""
        return self.width

    @property
    def num_branches(self) -> int:
        """Residual branches, which stochastic depth may drop."""
        return 2 * self.depth

    def check_image(self, height: int, width: int) -> None:
        """Raise UserError for images of another size than the token mixing is made for."""
        check_image(self.image_size, (height, width))

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        tokens, shapes = self.grid[0] * self.grid[1], dense("stem", *self.patch_size, 3, self.width)
        for i in range(self.depth):
            shapes |= norm(f"blocks/{i}/norm1", self.width)
            shapes |= dense(f"blocks/{i}/token_mixing/fc1", tokens, self.tokens_mlp_dim)
            shapes |= dense(f"blocks/{i}/token_mixing/fc2", self.tokens_mlp_dim, tokens)
            shapes |= norm(f"blocks/{i}/norm2", self.width)
            shapes |= dense(f"blocks/{i}/channel_mixing/fc1", self.width, self.channels_mlp_dim)
            shapes |= dense(f"blocks/{i}/channel_mixing/fc2", self.channels_mlp_dim, self.width)
        shapes |= norm("norm", self.width)
        return shapes if self.num_classes is None else shapes | dense("head", self.width, self.num_classes)


MIXER_VARIANTS = {  # name -> (width, depth, token MLP, channel MLP, patch sizes); table 1 of the paper
    "S": (512, 8, 256, 2048, (16, 32)),
    "B": (768, 12, 384, 3072, (16, 32)),
    "L": (1024, 24, 512, 4096, (16, 32)),
    "H": (1280, 32, 640, 5120, (14,)),
}


def infer(seen: Seen) -> MixerConfig:
    """The Mixer of canonical shapes."""
    shapes = seen.shapes
    *patch_size, _, width = shapes["stem/kernel"]
    tokens, tokens_mlp_dim = shapes["blocks/0/token_mixing/fc1/kernel"]
    channels_mlp_dim = shapes["blocks/0/channel_mixing/fc1/kernel"][1]
    image_size = infer_grid(tokens, (0, 0), tuple(patch_size), 1, seen.facts.get("image_size"))["image_size"]
    sizes = (tuple(patch_size), width, infer_depth(shapes), tokens_mlp_dim, channels_mlp_dim, seen.num_classes)
    return MixerConfig(*sizes, image_size=image_size, **seen.computes)


def adapt(arrays: Arrays, config: MixerConfig, wanted: MixerConfig, say: Say) -> Arrays:
    """The same arrays. UserError for another grid of patches, of which no values are made."""
    if config.grid != wanted.grid:
        shown = [" x ".join(map(str, one.image_size)) for one in (config, wanted)]
        raise UserError(f"The Mixer takes {shown[0]} pixels, to which its token mixing is bound; {shown[1]} cannot be.")
    return arrays


FAMILY = Family(
    config=MixerConfig,
    name="MLP-Mixer",
    variants={
        f"Mixer-{name}/{patch}": MixerConfig((patch, patch), *sizes, 1000)
        for name, (*sizes, patches) in MIXER_VARIANTS.items()
        for patch in patches
    },
    sizes=("patch_size", "width", "depth", "tokens_mlp_dim", "channels_mlp_dim"),
    initial={"vision_transformer": (*HEAD_AND_NORMS, ("*/bias", zeros), ("*", lecun_normal))},
    spellings={".npz": ("vision_transformer", "big_vision")},
    infer=infer,
    adapt=adapt,
)
