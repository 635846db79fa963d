"""Models that compress a map of an image, such as its colours or depth, into codes: UViM's first stage."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np

from common.models import transformer
from common.models.checks import COUNT, COUNTS, DEPTH, FLAG, PAIR, POSITIVE, RATE, Kind, check_fields, choice
from common.models.discrete import MAPS
from common.models.draws import glorot_uniform, inverse_width_normal, lecun_normal, normal, ones, zeros
from common.models.family import Arrays, Family, Say, Seen, Shapes, check_image, dense, norm
from common.models.positions import infer_grid
from common.models.resizing import position_matrices
from common.models.transformer import BlocksConfig
from common.models.vit import published_heads
from common.recipes.choices import Target
from common.system.errors import UserError

# Part of the codes that no vector has, and of the vectors that have one code.
USAGE = ("codebook_zeros_ratio", "codebook_max_ratio")
LEVELS = Kind(lambda value: COUNTS.holds(value) and all(one > 1 for one in value), "whole numbers of at least 2")
KINDS = {
    "image_size": PAIR, "patch_size": PAIR, "width": COUNT, "encoder_depth": DEPTH, "decoder_depth": DEPTH,
    "num_heads": COUNT, "mlp_dim": COUNT, "num_codes": COUNT, "vocabulary": COUNT, "code_width": COUNT,
    "target": choice(*MAPS), "bins": COUNTS, "levels": LEVELS, "resizes": FLAG, "encoder_context": FLAG,
    "decoder_context": FLAG, "momentum": RATE, "least_count": POSITIVE, "gelu": choice("tanh", "erf", "quick"),
    "layer_norm_epsilon": POSITIVE,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VqVaeConfig(BlocksConfig):
    """ViT-VQ-VAE (https://arxiv.org/abs/2205.10337): an encoder of maps, a codebook, and a decoder; both see the image.

    The encoder makes `num_codes` vectors of a map's patches, of which each becomes the nearest word of a codebook; the decoder
    makes the map of these. The codebook is no parameter that gradients move: `codebook/dictionary` / `codebook/counts` are
    means of the vectors that had each word, discounted by `momentum` (bit_*/quantizers.py). With `levels`, there is none: a
    vector's numbers are rounded to so many levels each (FSQ, https://arxiv.org/abs/2309.15505).
    Source: `models/proj/uvim/vit.py` of google-research/big_vision.

    Parameters, with D = width, P = pixels of a patch, L = number of patches, N = num_codes, C = code_width, V = vocabulary, and
    b bins of each map:
        encoder/stem/{name}/{kernel [b * P, D], bias [D]}
        encoder/context/{kernel [patch height, patch width, 3, D], bias [D]} (encoder_context)
        encoder/pos_embedding [1, L, D], encoder/blocks/i/... as a ViT's, encoder/norm/{scale,bias} [D]
        encoder/squeeze [L, N] (unless it resizes), encoder/head/{kernel [D, C], bias [C]}
        codebook/{dictionary [V, C], counts [V]} (without levels)
        decoder/stem/{kernel [C, D], bias [D]}, decoder/spread [N, L] (unless it resizes)
        decoder/context/... (decoder_context), decoder/pos_embedding, decoder/blocks/i/..., decoder/norm/...
        decoder/head/{name}/{kernel [D, b * P], bias [b * P]}
    """

    num_classes: ClassVar[None] = None
    pooling: ClassVar[str] = "none"

    patch_size: tuple[int, int]
    width: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    mlp_dim: int
    num_codes: int
    vocabulary: int  # words of the codebook; with levels, their product
    code_width: int  # with levels, their number
    image_size: tuple[int, int] = (512, 512)  # height and width in pixels, of images and maps
    target: Target = "colorization"
    bins: tuple[int, ...] = MAPS["colorization"].bins  # channels or classes of each map
    levels: tuple[int, ...] = ()  # of FSQ; none: a codebook
    resizes: bool = True  # between patches and codes, both as squares; or a learned matrix
    encoder_context: bool = True  # whether the encoder sees the image
    decoder_context: bool = True
    momentum: float = 0.995  # part of the codebook that stays in an update
    least_count: float = (
        0.1  # a word that had fewer vectors, discounted, is dead: a part of the most frequent takes its place
    )
    gelu: str = "tanh"
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self):
        check_fields(self, "A VQ-VAE", KINDS)
        if len(self.bins) != len(self.names):
            raise UserError(f"A VQ-VAE's bins are {self.bins}, expected one for each of {', '.join(self.names)}.")
        if self.width % self.num_heads:
            raise UserError(f"{self.num_heads} heads do not divide the width of {self.width}; choose a divisor.")
        if any(size % patch for size, patch in zip(self.image_size, self.patch_size)):
            raise UserError(f"Patches of {self.patch_size} do not divide an image of {self.image_size} pixels.")
        if self.resizes and math.isqrt(self.num_codes) ** 2 != self.num_codes:
            raise UserError(
                f"A VQ-VAE that resizes has {self.num_codes} codes, expected those of a square, such as 256."
            )
        if self.levels and (math.prod(self.levels), len(self.levels)) != (self.vocabulary, self.code_width):
            raise UserError(
                f"The levels {self.levels} make {math.prod(self.levels)} codes of {len(self.levels)} numbers, and the model "
                f"has {self.vocabulary} of {self.code_width}; give these to it."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps."""
        return MAPS[self.target].names

    @property
    def renews(self) -> bool:
        """Whether it has a codebook, which follows the vectors of a step."""
        return not self.levels

    @property
    def image_kernel(self) -> str | None:
        """The parameter that takes the images; None where the encoder sees none."""
        return "encoder/context/kernel" if self.encoder_context else None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return tuple(size // patch for size, patch in zip(self.image_size, self.patch_size))

    @property
    def code_grid(self) -> tuple[int, int]:
        """Rows and columns of codes, where they are a square."""
        return (math.isqrt(self.num_codes),) * 2

    @property
    def num_pixels(self) -> int:
        """Pixels of a patch."""
        return math.prod(self.patch_size)

    @property
    def depth(self) -> int:
        """Blocks of the encoder or the decoder, whichever has more: a spelling's `{block}` counts both."""
        return max(self.encoder_depth, self.decoder_depth)

    def measured(self, names: tuple[str, ...]) -> Shapes:
        """{name: shape} of what the loss measures; `renewed` of a model makes USAGE of how many vectors had each code, and their sums.

        Both are means over images.
        """
        found = {name: () for name in names if name not in USAGE} | {"code_counts": (self.vocabulary,)}
        return found if self.levels else found | {"code_sums": (self.vocabulary, self.code_width)}

    def check_image(self, height: int, width: int) -> None:
        """Raise UserError for images of another size than the positions are made for."""
        check_image(self.image_size, (height, width))

    def with_classes(self, num_classes: int | None) -> "VqVaeConfig":
        """This model. Raises UserError for classes, which it has none of."""
        if num_classes:
            raise UserError(f"A VQ-VAE predicts maps and has no head for {num_classes} classes; choose another model.")
        return self

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        count, shapes = math.prod(self.grid), {}
        for name, bins in zip(self.names, self.bins):
            shapes |= dense(f"encoder/stem/{name}", bins * self.num_pixels, self.width)
        shapes |= coder(self, "encoder", self.encoder_context, self.encoder_depth)
        shapes |= {} if self.resizes else {"encoder/squeeze": (count, self.num_codes)}
        shapes |= dense("encoder/head", self.width, self.code_width)
        if not self.levels:
            words = {"codebook/dictionary": (self.vocabulary, self.code_width), "codebook/counts": (self.vocabulary,)}
            shapes |= words
        shapes |= dense("decoder/stem", self.code_width, self.width)
        shapes |= {} if self.resizes else {"decoder/spread": (self.num_codes, count)}
        shapes |= coder(self, "decoder", self.decoder_context, self.decoder_depth)
        for name, bins in zip(self.names, self.bins):
            shapes |= dense(f"decoder/head/{name}", self.width, bins * self.num_pixels)
        return shapes

    def own_by_head(self) -> Shapes:
        """`own_shapes`, with the bins and pixels of a map on axes of their own, too, as flax keeps them."""
        shapes = super().own_by_head()
        for name, bins in zip(self.names, self.bins):
            pair = bins, self.num_pixels
            shapes[f"encoder/stem/{name}/kernel"] = *pair, self.width
            shapes[f"decoder/head/{name}/kernel"], shapes[f"decoder/head/{name}/bias"] = (self.width, *pair), pair
        return shapes


def check_given(maps: Any, images: Any) -> None:
    """Raise UserError where a model got images alone, or maps that were not read."""
    if images is None or not isinstance(maps, dict):
        raise UserError(
            "The model makes codes of maps and their images, and maps again of codes and images; call "
            "model.encode(maps, images) or model.decode(codes, images)."
        )


def coder(config: VqVaeConfig, name: str, sees_image: bool, depth: int) -> Shapes:
    """The shapes of what the encoder and the decoder have in common."""
    shapes = dense(f"{name}/context", *config.patch_size, 3, config.width) if sees_image else {}
    shapes |= {f"{name}/pos_embedding": (1, math.prod(config.grid), config.width)}
    for i in range(depth):
        shapes |= transformer.block(f"{name}/blocks/{i}", config)
    return shapes | norm(f"{name}/norm", config.width)


def infer(seen: Seen) -> VqVaeConfig:
    """The VQ-VAE of canonical shapes; where nothing tells its number of codes and its levels, those of the variant like it.

    Of none like it, as in the originals, a quarter as many codes as patches, and no levels.
    """
    shapes, stated = seen.shapes, seen.facts
    named = (target for target, maps in MAPS.items() if f"encoder/stem/{maps.names[0]}/bias" in shapes)
    target = next(named, "colorization")  # whose parameters are missing then
    contexts = {f"{half}_context": f"{half}/context/kernel" in shapes for half in ("encoder", "decoder")}
    kernel = shapes.get("encoder/context/kernel") or shapes.get("decoder/context/kernel")
    patch_size = tuple(kernel[:2]) if kernel else stated["patch_size"]
    _, patches, width = shapes["encoder/pos_embedding"]
    code_width, pixels = shapes["decoder/stem/kernel"][0], math.prod(patch_size)
    known = variant_of(patch_size, width, patches, code_width, learned="codebook/counts" in shapes)
    levels = stated.get("levels", known.levels if known else ())
    vocabulary = math.prod(levels) if levels else shapes["codebook/counts"][0]
    bins = tuple(shapes[f"encoder/stem/{name}/kernel"][0] // pixels for name in MAPS[target].names)
    encoder_depth, decoder_depth = (depth_of(shapes, half) for half in ("encoder", "decoder"))
    mlp_dim = shapes["encoder/blocks/0/mlp/fc1/kernel"][1]
    heads = seen.num_heads or stated.get("num_heads") or published_heads(width, encoder_depth, mlp_dim)
    squeeze = shapes.get("encoder/squeeze")
    image_size = infer_grid(patches, (0, 0), patch_size, 1, stated.get("image_size"))["image_size"]
    return VqVaeConfig(
        patch_size, width, encoder_depth, decoder_depth, heads, mlp_dim,
        squeeze[1] if squeeze else stated.get("num_codes", known.num_codes if known else patches // 4), vocabulary, code_width, image_size, target, bins,
        levels, squeeze is None, **contexts, **seen.computes,
        **{name: stated[name] for name in ("momentum", "least_count") if name in stated},
    )  # fmt: skip


def variant_of(patch_size: tuple, width: int, patches: int, code_width: int, *, learned: bool) -> VqVaeConfig | None:
    """The first variant of these sizes, with a codebook that is `learned` or with levels."""
    sizes = patch_size, width, patches, code_width, learned
    of = lambda one: (one.patch_size, one.width, math.prod(one.grid), one.code_width, one.renews)
    return next((one for one in FAMILY.variants.values() if of(one) == sizes), None)


def check_values(arrays: Arrays, where: object) -> None:
    """Raise UserError for a codebook some of whose words are no vectors."""
    if "codebook/counts" not in arrays:
        return
    dictionary, counts = arrays["codebook/dictionary"].astype(np.float32), arrays["codebook/counts"].astype(np.float32)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(dictionary / counts[:, None], axis=1)
        bad = np.count_nonzero(~((counts > 0) & (lengths > 0) & np.isfinite(1 / lengths)))
    if bad:
        raise UserError(
            f"{where} holds a codebook with {bad:,} {'word' if bad == 1 else 'words'} of which no vectors are known; download or "
            "train it again."
        )


def adapt(arrays: Arrays, config: VqVaeConfig, wanted: VqVaeConfig, say: Say) -> Arrays:
    """The same arrays. UserError for another grid of patches, of which no values are made."""
    if config.grid != wanted.grid:
        shown = [" x ".join(map(str, one.image_size)) for one in (config, wanted)]
        raise UserError(f"The VQ-VAE takes {shown[0]} pixels, to which its positions are bound; {shown[1]} cannot be.")
    return arrays


@functools.cache
def resize_matrices(config: VqVaeConfig) -> tuple[np.ndarray, np.ndarray]:
    """float64 [L, N] and [N, L]: what makes codes of patches and patches of codes by resizing, as `jax.image.resize` does."""
    pairs = position_matrices(config.grid, config.code_grid), position_matrices(config.code_grid, config.grid)
    return tuple(np.kron(*pair).T for pair in pairs)


def depth_of(shapes: Shapes, half: str) -> int:
    """Number of blocks of the encoder or the decoder."""
    depth = 0
    while f"{half}/blocks/{depth}/norm1/scale" in shapes:
        depth += 1
    return depth


def words(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A dictionary [V, C]: normal of variance 1 / V."""
    return normal(1 / math.sqrt(shape[0]))(rng, shape)


def uvim(target: Target) -> VqVaeConfig:
    """`configs/proj/uvim/vqvae_*.py` of big_vision."""
    return VqVaeConfig((16, 16), 768, 6, 12, 12, 3072, 256, 4096, 768, (512, 512), target, MAPS[target].bins)


def tiny(target: Target, patch: int = 8) -> VqVaeConfig:
    """What trains on a CPU within minutes; of depth and panoptic maps fewer classes."""
    bins = {"colorization": (3,), "depth": (64,), "panoptic": (134, 20)}[target]
    return VqVaeConfig((patch, patch), 128, 2, 2, 4, 256, 16, 256, 32, (32, 32), target, bins)


def rounding(config: VqVaeConfig, levels: tuple[int, ...]) -> VqVaeConfig:
    """The same model with levels instead of a codebook; without levels, as it is."""
    sizes = {"vocabulary": math.prod(levels), "code_width": len(levels), "levels": levels}
    return dataclasses.replace(config, **sizes) if levels else config


SIZES = (  # name, model, and the levels of about as many codes as it has words: table 1 of https://arxiv.org/abs/2309.15505
    ("UViM-T/8", tiny, (8, 6, 5)),
    ("UViM-T/4", functools.partial(tiny, patch=4), (8, 6, 5)),
    ("UViM-B/16", uvim, (7, 5, 5, 5, 5)),
)
FAMILY = Family(
    config=VqVaeConfig,
    name="VQ-VAE",
    variants={
        f"{name}-{target}{ending}": rounding(build(target), levels)
        for name, build, fsq in SIZES
        for target in MAPS
        for ending, levels in (("", ()), ("-FSQ", fsq))
    },
    sizes=(
        "patch_size", "width", "encoder_depth", "decoder_depth", "num_heads", "mlp_dim", "num_codes", "vocabulary",
        "code_width", "target", "bins", "levels", "resizes", "encoder_context", "decoder_context",
    ),
    initial={
        "big_vision": (
            ("decoder/head/*", zeros), ("*norm*/scale", ones), ("*norm*/bias", zeros), ("*/mlp/*/bias", normal(1e-6)),
            ("*/bias", zeros), ("*/mlp/*/kernel", glorot_uniform), ("*/attn/*/kernel", glorot_uniform),
            ("*/pos_embedding", inverse_width_normal), ("encoder/squeeze", glorot_uniform),
            ("decoder/spread", glorot_uniform), ("codebook/counts", ones), ("codebook/dictionary", words),
            ("*", lecun_normal),
        ),
    },
    spellings={".npz": ("big_vision",)},
    infer=infer,
    adapt=adapt,
    check_values=check_values,
)  # fmt: skip
