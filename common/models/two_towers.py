"""Image-text models: a tower for images and one for texts, whose embeddings are compared."""

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

from common.models.bert import VARIANTS as BERTS
from common.models.bert import BertConfig
from common.models.checks import FLAG, LORA, OPTIONAL, check_fields
from common.models.draws import constant, lecun_normal
from common.models.family import Config, Family, Shapes, WithImage
from common.models.text import TextConfig
from common.models.vit import VIT_VARIANTS, ViTConfig
from common.recipes.lora import Lora
from common.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class TwoTowersConfig(WithImage, Config):
    """A tower for images and one for texts; without one for texts, the images' tower sees texts that are drawn (CLIPPO).

    What a tower makes, by its head or without one, is divided by its norm + 1e-8: an embedding. The similarity of image
    and text is exp(t) * <their embeddings>, plus b. Sources: SigLIP (https://arxiv.org/abs/2303.15343), CLIP
    (https://arxiv.org/abs/2103.00020), LiT (https://arxiv.org/abs/2111.07991), CLIPPO (https://arxiv.org/abs/2212.08045);
    `models/proj/image_text/two_towers.py` and `models/proj/clippo/one_tower.py` of google-research/big_vision.

    Parameters: image/... and text/... of the towers, t [1], b [1] (bias). Beside a third tower (common/tasks/third.py) also
    third/{image,text}/kernel [E, E] and third/{for_image,for_text}/kernel [T, E], which are of use in training only.
    """

    image: Config
    text: TextConfig | BertConfig | None = None
    bias: bool = True
    lora: Lora | None = None  # in training: matrices that learn in the place of the towers' dense kernels
    third: int | None = None  # width T of the features of a frozen third tower, in training
    num_classes: ClassVar[None] = None

    def __post_init__(self):
        check_fields(self, "An image-text model", {"bias": FLAG, "lora": LORA, "third": OPTIONAL})
        if not isinstance(self.image, Config) or not isinstance(self.text, TextConfig | BertConfig | None):
            raise UserError(
                "An image-text model has a tower for images and perhaps one for texts; name their families."
            )
        if self.text and width(self.text) != width(self.image):
            raise UserError(
                f"The towers' embeddings are {width(self.image)} and {width(self.text)} wide, expected the same; give both "
                "a projection of one width."
            )

    @property
    def num_patches(self) -> int:
        """Patches of an image, some of which training may leave out."""
        return self.image.num_patches

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return width(self.image)

    def as_naflex(self) -> "TwoTowersConfig":
        """The same model for images that keep their aspect ratio. Raises UserError where texts are images, too."""
        if self.text is None:
            raise UserError("The model sees texts as images of one size; leave --tokens and --token_lengths out.")
        return dataclasses.replace(self, image=self.image.as_naflex())

    def resizable(self, sides: Iterable[int]) -> "TwoTowersConfig":
        """The same model for images with square patches of any of these sides. Raises UserError where texts are images, too."""
        if self.text is None:
            raise UserError("The model sees texts as images with patches of one size; leave --patch_sizes out.")
        return dataclasses.replace(self, image=self.image.resizable(sides))

    def at_patch(self, patch_size: tuple[int, int] | None) -> "TwoTowersConfig":
        """The same model, of the same parameters, for patches of this height and width in pixels; None: its own."""
        return dataclasses.replace(self, image=self.image.at_patch(patch_size))

    def with_classes(self, num_classes: int | None) -> "TwoTowersConfig":
        """This model. Raises UserError for classes, which it has none of."""
        if num_classes:
            raise UserError(f"An image-text model has no head for {num_classes} classes; give its classes as texts.")
        return self

    def own_shapes(self) -> Shapes:
        """{canonical name: shape}."""
        shapes = {"t": (1,)} | ({"b": (1,)} if self.bias else {})
        if self.third:
            widths = {"image": self.width, "text": self.width, "for_image": self.third, "for_text": self.third}
            shapes |= {f"third/{name}/kernel": (width, self.width) for name, width in widths.items()}
        return shapes

    @property
    def after_training(self) -> "TwoTowersConfig":
        """The same model without what is of use in training only."""
        return dataclasses.replace(self, lora=None, third=None)


def width(tower: Config) -> int:
    """Width of what a tower makes."""
    return tower.num_classes or tower.feature_width


def vit(variant: str, patch: int, size: int, **changes) -> ViTConfig:
    """A ViT tower without a projection."""
    return ViTConfig((patch, patch), *VIT_VARIANTS[variant][:-1], None, (size, size), **changes)


def siglip(
    variant: str, patch: int, size: int, *, vocabulary: int = 32_000, length: int = 64, text: str = "", **changes
) -> TwoTowersConfig:
    """SigLIP: a pooled by attention ViT, and a text transformer of the same size with a projection to its width."""
    image, sizes = vit(variant, patch, size, pooling="map", **changes), VIT_VARIANTS[text or variant][:-1]
    return TwoTowersConfig(image, TextConfig(vocabulary, length, *sizes, image.width))


def without_projection(model: TwoTowersConfig) -> TwoTowersConfig:
    """The same model, whose text tower has no projection either."""
    return dataclasses.replace(model, text=dataclasses.replace(model.text, num_classes=None))


def clip(variant: str, patch: int, embedding: int, text_width: int) -> TwoTowersConfig:
    """OpenAI's CLIP: both towers with a projection without bias; https://github.com/openai/CLIP, `clip/model.py`."""
    how = {"gelu": "quick", "layer_norm_epsilon": 1e-5, "head_bias": False}
    image = vit(variant, patch, 224, pooling="token", stem_bias=False, pre_norm=True, **how)
    image = dataclasses.replace(image, num_classes=embedding)
    sizes = text_width, 12, text_width // 64, 4 * text_width
    return TwoTowersConfig(image, TextConfig(49_408, 77, *sizes, embedding, pooling="end", causal=True, **how), False)


def lit(variant: str, bert: str, embedding: int | None) -> TwoTowersConfig:
    """LiT: a ViT with its class token and a BERT; without a width of the embedding, the image tower has no projection."""
    image = dataclasses.replace(vit(variant, 16, 224), num_classes=embedding)
    text = BertConfig(30_522, 512, *BERTS[bert], embedding or image.width, gelu="tanh")
    return TwoTowersConfig(image, text, bias=False)


def tiny() -> TwoTowersConfig:
    """The embedded model's: towers 128 wide, for images of 32 pixels and short texts."""
    image = vit("T", 8, 32, pooling="map")
    return TwoTowersConfig(image, TextConfig(1000, 16, 128, 2, 4, 512, 128))


GEMMA = {"vocabulary": 256_000}
VARIANTS = {
    "SigLIP-T/8": tiny(),
    **{f"SigLIP-B/16-{size}": siglip("B", 16, size) for size in (224, 256, 384, 512)},
    **{f"SigLIP-L/16-{size}": siglip("L", 16, size) for size in (256, 384)},
    "SigLIP-So400m/14-224": siglip("So400m", 14, 224, length=16),
    "SigLIP-So400m/14-384": siglip("So400m", 14, 384),
    "SigLIP-B/16-256-i18n": siglip("B", 16, 256, vocabulary=250_000),
    "SigLIP-So400m/16-256-i18n": without_projection(siglip("So400m", 16, 256, vocabulary=250_000)),
    "SigLIP2-B/32-256": siglip("B", 32, 256, **GEMMA),
    **{f"SigLIP2-B/16-{size}": siglip("B", 16, size, **GEMMA) for size in (224, 256, 384, 512)},
    **{f"SigLIP2-L/16-{size}": siglip("L", 16, size, **GEMMA) for size in (256, 384, 512)},
    **{f"SigLIP2-So400m/14-{size}": siglip("So400m", 14, size, **GEMMA) for size in (224, 384)},
    **{f"SigLIP2-So400m/16-{size}": siglip("So400m", 16, size, **GEMMA) for size in (256, 384, 512)},
    **{f"SigLIP2-g-opt/16-{size}": siglip("g-opt", 16, size, text="So400m", **GEMMA) for size in (256, 384)},
    **{f"SigLIP2-{name}/16-naflex": siglip(name, 16, 256, naflex=True, **GEMMA) for name in ("B", "So400m")},
    "CLIP-B/32": clip("B", 32, 512, 512),
    "CLIP-B/16": clip("B", 16, 512, 512),
    "CLIP-L/14": clip("L", 14, 768, 768),
    "LiT-B16B": lit("B", "base", 768),
    "LiT-B16B_2": lit("B", "base", None),
    "LiT-L16L": lit("L", "large", None),
    "CLIPPO-B/16": TwoTowersConfig(dataclasses.replace(vit("B", 16, 224, pooling="map"), num_classes=768), None, False),
}  # fmt: skip

FAMILY = Family(
    config=TwoTowersConfig,
    name="image-text model",
    variants=VARIANTS,
    sizes=("bias",),
    initial={"big_vision": (("t", constant(math.log(10))), ("b", constant(-10)), ("third/*", lecun_normal))},
    initial_within=(("*/head/kernel", lecun_normal),),  # projections: of zeros, nothing would ever be learnt
    spellings={".npz": ("big_vision", "vision_transformer_linen")},
    infer=lambda seen: TwoTowersConfig(**seen.children, bias="b" in seen.shapes),
)
