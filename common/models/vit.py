"""Vision Transformers and hybrids: a frozen configuration, and the variants of the papers as rows of tables."""

import dataclasses
import math
import re
from typing import Any

from common.models import transformer
from common.models.checks import (
    COUNT,
    DEPTH,
    FLAG,
    LORA,
    OPTIONAL,
    OPTIONAL_PAIR,
    PAIR,
    POSITIVE,
    RATE,
    Kind,
    check_fields,
    choice,
    some_of,
)
from common.models.draws import (
    HEAD_AND_NORMS,
    constant,
    glorot_normal,
    glorot_uniform,
    inverse_width_normal,
    lecun_normal,
    normal,
    zeros,
)
from common.models.family import Family, Seen, Shapes, Undecided, check_image, dense, norm
from common.models.later_vits import LATER, SIZES, Later
from common.models.patches import Patches, check_patches, check_strip
from common.models.positions import WAYS, adapt, express, express_config, infer_depth, infer_grid, restore
from common.models.resnet_v1 import ResNetV1Config
from common.recipes.lora import Lora
from common.system.errors import UserError

KINDS = {
    "patch_size": PAIR, "width": COUNT, "depth": DEPTH, "num_heads": COUNT, "mlp_dim": COUNT, "num_classes": OPTIONAL,
    "image_size": PAIR, "pooling": choice("token", "gap", "map", "first", "none", "token_gap", "gap_norm"),
    "positions": choice("learned", "sincos2d", "rotary"), "position_resize": choice(*WAYS), "cls_position": FLAG, "pre_logits": OPTIONAL,
    "gelu": choice("tanh", "erf", "quick"), "layer_norm_epsilon": POSITIVE, "dropout": RATE,
    "stem_bias": FLAG, "pre_norm": FLAG, "head_bias": FLAG, "kernel_size": OPTIONAL_PAIR, "position_grid": OPTIONAL_PAIR,
    "backbone": Kind(lambda value: value is None or isinstance(value, ResNetV1Config), "a ResNet V1, or none"),
    "distilled": FLAG, "registers": DEPTH, "register_positions": FLAG, "patch_norms": some_of("pre", "post"),
    "attn_biases": some_of(*transformer.ATTENTION), "qk_norm": FLAG, "layer_scale": FLAG, "swiglu": FLAG, "parallel": FLAG,
    "lora": LORA,
    "naflex": FLAG,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ViTConfig(Patches, transformer.BlocksConfig):
    """Vision Transformer (https://arxiv.org/abs/2010.11929); with a backbone, a hybrid of ResNet and ViT.

    Sources: `vit_jax/models_vit.py` of google-research/vision_transformer, `models/vit.py` of
    google-research/big_vision, kakaobrain/coyo-vit; `pre_norm` and layers without bias, `clip/model.py` of openai/CLIP.
    Parts that later models have: `distilled`, DeiT (https://arxiv.org/abs/2012.12877); `registers`,
    https://arxiv.org/abs/2309.16588; `patch_norms`, Dual PatchNorm (https://arxiv.org/abs/2302.01327); `qk_norm` and
    `parallel`, ViT-22B (https://arxiv.org/abs/2302.05442), with norms that have a bias; `layer_scale`, CaiT
    (https://arxiv.org/abs/2103.17239); `swiglu`, https://arxiv.org/abs/2002.05202; rotary positions, DINOv3
    (https://arxiv.org/abs/2508.10104).

    With a `kernel_size` it is a FlexiViT (https://arxiv.org/abs/2212.08013; `models/proj/flexi/vit.py` of big_vision): its
    kernel is stored at that size and its learned positions for a `position_grid`, and both are resized to what `patch_size`
    asks for in every forward pass (common/models/resizing.py), so that training at many sizes trains one set of weights.

    A `naflex` (https://arxiv.org/abs/2502.14786; `models/proj/image_text/naflex_vit.py` of big_vision) sees images at their
    own aspect ratio, as patches with coordinates and a mask. Its `image_size` has the grid of the stored positions.

    Parameters, with D = width, M = mlp_dim, L = positions, R = pre_logits or D, K = classes. Attention kernels are
    matrices: the columns of query, key and value are ordered by head and then within it, like the rows of out.
        backbone/... of ResNetV1Config without its head (hybrids)
        image_norm/{scale,bias} [patch height * patch width * C] (patch_norms pre), with C = 3 or the backbone's width
        stem/kernel [patch or kernel height, and width, C, D], stem/bias [D] (stem_bias)
        embed_norm/{scale,bias} [D] (patch_norms post)
        cls [1, 1, D] (pooling token, token_gap), dist [1, 1, D] (distilled), registers [1, registers, D]
        pos_embedding [1, L, D] (learned), pre_norm/{scale,bias} [D] (pre_norm)
        blocks/i/norm1/{scale,bias} [D], blocks/i/attn/{query,key,value,out}/{kernel [D, D], bias [D] (attn_biases)}
        blocks/i/attn/{query_norm,key_norm}/{scale,bias} [D / heads] (qk_norm), blocks/i/layer_scale1/scale [D] (layer_scale)
        blocks/i/norm2/{scale,bias} [D] (unless parallel), blocks/i/mlp/gate/{kernel [D, M], bias [M]} (swiglu)
        blocks/i/mlp/fc1/{kernel [D, M], bias [M]}, .../fc2/{kernel [M, D], bias [D]}, blocks/i/layer_scale2/scale [D]
        norm/{scale,bias} [D], or pool_norm/{scale,bias} [D] (pooling gap_norm)
        pool/{probe [1, 1, D], attn/..., norm/..., mlp/...} (pooling map; the shapes of a block)
        pre_logits/{kernel [D, R], bias [R]} (where pre_logits is given)
        head/{kernel [R, K], of token_gap [2 D, K], bias [K] (head_bias)} (where num_classes is given), head_dist/... (distilled)
    """

    patch_size: tuple[int, int]  # height and width, of the image or of the backbone's feature map
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_classes: int | None  # None: no head, the model's output are its features
    image_size: tuple[int, int] = (224, 224)  # height and width in pixels; fixes the grid of learned positions
    # gap: mean of all patches, gap_norm: before the last norm; token_gap: the class token, then that mean; map: attention;
    # first: first patch; none: every patch has logits
    pooling: str = "token"
    positions: str = "learned"  # added to the tokens, as are sincos2d; rotary: of queries and keys, in every block
    cls_position: bool = True  # False, in big_vision: positions are added to the patches only
    pre_logits: int | None = None  # width of a dense layer with tanh before the head
    gelu: str = "tanh"  # in Google's models; erf in timm's and Hugging Face's; quick, x * sigmoid(1.702 x), in OpenAI's
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.0  # in training, after the positions, the attention, the GELU and the MLP
    backbone: ResNetV1Config | None = None
    stem_bias: bool = True
    pre_norm: bool = False  # a layer norm before the first block
    head_bias: bool = True
    kernel_size: tuple[int, int] | None = None  # height and width of the stored kernel; None: the patches', for ever
    position_grid: tuple[int, int] | None = None  # rows and columns of the stored positions; None: `grid`
    distilled: bool = False  # a second class token with a head of its own; the logits are the mean of both
    registers: int = 0  # tokens without a meaning between the class token and the patches
    register_positions: bool = False  # whether learned positions are added to them
    patch_norms: tuple[str, ...] = ()  # layer norms of the pixels of a patch ("pre") and of its embedding ("post")
    attn_biases: tuple[str, ...] = transformer.ATTENTION  # the layers of attention that have a bias
    qk_norm: bool = False  # a layer norm of the queries and of the keys of each head
    layer_scale: bool = False  # a factor for each channel of what a residual branch adds
    swiglu: bool = False  # in the MLP, swish(gate) * fc1 in the place of the GELU
    position_resize: str = "corners"  # how learned positions become those of another grid: positions.py
    parallel: bool = False  # attention and MLP take the same input, behind one norm
    lora: Lora | None = None  # in training: matrices that learn in the place of dense kernels
    naflex: bool = False  # images keep their aspect ratio, as patches; positions are resized for each

    def __post_init__(self):
        check(self)

    @property
    def image_kernel(self) -> str:
        """The parameter that takes the images."""
        return f"backbone/{self.backbone.image_kernel}" if self.backbone else "stem/kernel"

    @property
    def feature_width(self) -> int:
        """Number of features before the head; of a distilled one, of both heads together."""
        return self.head_width * (1 + self.distilled)

    @property
    def head_width(self) -> int:
        """Rows of the head's kernel."""
        return self.pre_logits or self.width * (1 + (self.pooling == "token_gap"))

    @property
    def num_branches(self) -> int:
        """Residual branches, which stochastic depth may drop."""
        return 2 * self.depth

    @property
    def num_dropouts(self) -> int:
        """Places at which dropout acts."""
        return 1 + 3 * self.depth

    @property
    def num_patches(self) -> int:
        """Patches of an image, some of which training may leave out; 0 where the output needs all, or the first, of them."""
        return 0 if self.naflex or self.pooling in ("first", "none") else math.prod(self.grid)

    def check_image(self, height: int, width: int, count: int | None = None) -> None:
        """Raise UserError for images of another size than the positions are made for, or than `count` coordinates ask for."""
        if self.naflex or count is not None:
            return check_strip(self, height, width, count)
        check_image(self.image_size, (height, width))

    def own_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        channels, shapes = self.backbone.width if self.backbone else 3, {}
        shapes |= norm("image_norm", math.prod(self.patch_size) * channels) if "pre" in self.patch_norms else {}
        shapes |= dense("stem", *self.stored_kernel, channels, self.width)
        if not self.stem_bias:
            del shapes["stem/bias"]
        shapes |= norm("embed_norm", self.width) if "post" in self.patch_norms else {}
        tokens = {"cls": self.has_cls, "dist": int(self.distilled), "registers": self.registers}
        shapes |= {name: (1, int(count), self.width) for name, count in tokens.items() if count}
        if self.positions == "learned":
            shapes["pos_embedding"] = (1, self.num_positions, self.width)
        shapes |= norm("pre_norm", self.width) if self.pre_norm else {}
        shapes |= transformer.blocks(self) | norm("norm" if self.norm_first else "pool_norm", self.width)
        shapes |= transformer.attention_pool(self.width, self.mlp_dim) if self.pooling == "map" else {}
        shapes |= dense("pre_logits", self.width, self.pre_logits) if self.pre_logits else {}
        for name in ("head", "head_dist") if self.distilled else ("head",):
            shapes |= transformer.head(self.head_width, self.num_classes, self.head_bias, name)
        return shapes


def check(config: ViTConfig) -> None:
    """Raise UserError for fields that no ViT has, or not together."""
    check_fields(config, "A ViT", KINDS)
    if config.width % config.num_heads:
        raise UserError(f"{config.num_heads} heads do not divide the width of {config.width}; choose a divisor.")
    if config.positions == "sincos2d" and config.width % 4:
        raise UserError(f"The positions sincos2d need a width that 4 divides, not {config.width}; use learned ones.")
    if config.positions == "rotary" and config.width // config.num_heads % 4:
        raise UserError(
            f"Rotary positions need heads of a width that 4 divides, not {config.width // config.num_heads}."
        )
    if config.distilled and (config.pooling != "token" or config.pre_logits):
        raise UserError("A distilled ViT has pooling 'token' and no pre_logits; leave these away, or distilled.")
    if config.pooling == "token_gap" and config.pre_logits:
        raise UserError("A ViT with pooling 'token_gap' has no pre_logits; leave these away.")
    if config.register_positions and not config.registers:
        raise UserError("A ViT without registers has no positions for them; leave register_positions away.")
    if min(config.grid) < 1:
        raise UserError(f"An image of {config.image_size} pixels is smaller than one patch of {config.patch_size}.")
    check_patches(config)


PATCH_NORMS = {"pre": "image_norm", "post": "embed_norm"}
OF_SOME = (  # fields of the parts that not every ViT has
    "distilled", "registers", "patch_norms", "attn_biases", "qk_norm", "layer_scale", "swiglu", "parallel",
)  # fmt: skip
PLAIN = {
    name: (getattr(ViTConfig, name),) for name in (*OF_SOME, "register_positions", "naflex")
}  # what a spelling holds without

# Table 1 of the ViT paper and table 2 of https://arxiv.org/abs/2106.04560; mu, M, So400m, g-opt and G-opt: big_vision.
VIT_VARIANTS = {  # name -> (width, depth, heads, MLP width, patch sizes of published models)
    "mu": (32, 1, 2, 128, (16,)),
    "T": (128, 4, 4, 512, (8,)),  # the image tower of the embedded SigLIP-T/8
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
    "R+ViT-Ti/16": ("Ti", 8, ()),  # the stride of its patches is 32 pixels, twice the number in its name
    "R26+ViT-S/32": ("S", 1, (2, 2, 2, 2)),
    "R26+ViT-B/32": ("B", 1, (2, 2, 2, 2)),
    "R50+ViT-B/16": ("B", 1, (3, 4, 9)),
    "R50+ViT-L/32": ("L", 1, (3, 4, 6, 3)),
}


def flexivit(*sizes: int) -> ViTConfig:
    """A FlexiViT of table 1 of its paper: the kernel is for 32 pixels and the positions for 7 x 7 patches."""
    flexible = {"cls_position": False, "kernel_size": (32, 32), "position_grid": (7, 7)}
    return ViTConfig((16, 16), *sizes, 1000, (240, 240), **flexible)


def later(row: Later) -> ViTConfig:
    """A ViT of a later paper; its patches, of 1,000 classes where it has a head."""
    sizes = SIZES.get(row.variant) or VIT_VARIANTS[row.variant][:-1]
    return ViTConfig(
        (row.patch, row.patch), *sizes, **{"num_classes": 1000, "image_size": (row.pixels,) * 2} | row.fields
    )


def published_heads(width: int, depth: int, mlp_dim: int, *, swiglu: bool = False) -> int:
    """Number of heads of the published variant of these sizes; `swiglu`, first of those with a gated MLP."""
    plain = [row[:-1] for row in VIT_VARIANTS.values()]
    for *sizes, heads, mlp in [*SIZES.values(), *plain] if swiglu else plain:
        if (*sizes, mlp) == (width, depth, mlp_dim):
            return heads
    raise Undecided("does not tell its number of heads; give --num_heads.")


def infer(seen: Seen) -> ViTConfig:
    """The ViT of canonical shapes."""
    shapes, backbone = seen.shapes, seen.children.get("backbone")
    if len(shapes["stem/kernel"]) != 4:  # a matrix, which is a NaFlex's, read by the table of others
        raise KeyError("stem/kernel")
    *patch_size, _, width = shapes["stem/kernel"]
    depth, mlp_dim = infer_depth(shapes), shapes["blocks/0/mlp/fc1/kernel"][1]
    heads = seen.num_heads or seen.facts.get("num_heads")
    heads = heads or published_heads(width, depth, mlp_dim, swiglu="blocks/0/mlp/gate/kernel" in shapes)
    sizes = {"patch_size": tuple(patch_size), "width": width, "depth": depth, "num_heads": heads, "mlp_dim": mlp_dim}
    pooling = infer_pooling(seen, width)
    sizes |= {"num_classes": seen.num_classes, "pooling": pooling, "backbone": backbone}
    sizes |= {"pre_logits": shapes["pre_logits/bias"][0] if "pre_logits/bias" in shapes else None}
    sizes |= {"stem_bias": "stem/bias" in shapes, "pre_norm": "pre_norm/scale" in shapes}
    sizes |= {"head_bias": "head/bias" in shapes or "head/kernel" not in shapes}
    told = {name: seen.facts.get(name, getattr(ViTConfig, name)) for name in ("position_resize", "naflex")}
    sizes |= infer_parts(shapes) | told
    image_size = seen.facts.get("image_size")
    if "pos_embedding" not in shapes:
        turning = "rotary" in (seen.facts.get("positions"), seen.computes.get("positions"))
        fixed = {"positions": "rotary" if turning else "sincos2d", "cls_position": False}
        fixed |= {"image_size": image_size or (224, 224)}
        if seen.facts.get("kernel_size"):
            fixed |= {"kernel_size": tuple(patch_size), "patch_size": seen.facts["patch_size"]}
        return ViTConfig(**sizes | seen.computes | fixed)
    count, stride = shapes["pos_embedding"][1], backbone.stride if backbone else 1
    if grid := seen.facts.get("position_grid"):
        flexible = {"kernel_size": tuple(patch_size), "position_grid": grid, "patch_size": seen.facts["patch_size"]}
        flexible |= {"cls_position": "cls" in shapes and seen.facts["cls_position"], "image_size": image_size}
        flexible |= {"register_positions": sizes["registers"] > 0 and seen.facts.get("register_positions", False)}
        return ViTConfig(**sizes | seen.computes | flexible)
    prefix = ("cls" in shapes) + sizes["distilled"], sizes["registers"]
    grid = infer_grid(count, prefix, tuple(patch_size), stride, image_size)
    return ViTConfig(**sizes | seen.computes | grid)


def infer_pooling(seen: Seen, width: int) -> str:
    """How features become of tokens, as far as names and shapes tell it."""
    shapes = seen.shapes
    if "cls" in shapes:
        both = shapes.get("head/kernel", (width,))[0] == 2 * width and "pre_logits/bias" not in shapes
        return "token_gap" if both else "token"
    if "pool/probe" in shapes:
        return "map"
    return "gap_norm" if "pool_norm/scale" in shapes else seen.facts.get("pooling", "gap")


def infer_parts(shapes: Shapes) -> dict[str, Any]:
    """{field: value} of the parts that not every ViT has."""
    names = {re.sub(r"^blocks/\d+/", "", name) for name in shapes}  # of every block: one may lack what a file lost
    return {
        "distilled": "dist" in shapes,
        "registers": shapes.get("registers", (1, 0))[1],
        "patch_norms": tuple(part for part, name in PATCH_NORMS.items() if f"{name}/scale" in shapes),
        "attn_biases": tuple(part for part in transformer.ATTENTION if f"attn/{part}/bias" in names),
        "qk_norm": "attn/query_norm/scale" in names,
        "layer_scale": "layer_scale1/scale" in names,
        "swiglu": "mlp/gate/kernel" in names,
        "parallel": "norm2/scale" not in names,
    }


VIT_BIASES = (("*/mlp/*/bias", normal(1e-6)), ("*/bias", zeros), ("cls", zeros))
KERNELS = (("*/attn/*", glorot_uniform), ("*/mlp/*", glorot_uniform), ("pool/probe", glorot_uniform))
PARTS = (("head_dist/*", zeros), ("dist", zeros), ("registers", normal(1e-6)), ("*/layer_scale?/scale", constant(1e-5)))
VIT = (*HEAD_AND_NORMS, *PARTS, *VIT_BIASES, *KERNELS)
FAMILY = Family(
    config=ViTConfig,
    name="ViT",
    parent="hybrid of ResNet and ViT",
    variants={
        f"ViT-{name}/{patch}": ViTConfig((patch, patch), *sizes, 1000)
        for name, (*sizes, patches) in VIT_VARIANTS.items()
        for patch in patches
    }
    | {f"FlexiViT-{name}": flexivit(*VIT_VARIANTS[name][:-1]) for name in ("S", "B", "L")}
    | {
        name: ViTConfig((patch, patch), *VIT_VARIANTS[variant][:-1], 1000, backbone=ResNetV1Config(units, 1))
        for name, (variant, patch, units) in HYBRIDS.items()
    }
    | {name: later(row) for name, row in LATER.items()},
    sizes=("patch_size", "kernel_size", "width", "depth", "num_heads", "mlp_dim", "rotary", *OF_SOME),
    initial={
        "vision_transformer": (*VIT, ("pos_embedding", normal(0.02)), ("*", lecun_normal)),
        "big_vision": (*VIT, ("pos_embedding", inverse_width_normal), ("*", lecun_normal)),
        "coyo": (
            *HEAD_AND_NORMS,
            *PARTS,
            *VIT_BIASES,
            ("*/attn/*", glorot_normal),
            ("*/mlp/fc1/*", glorot_normal),
            ("pos_embedding", normal(0.02)),
            ("*", glorot_uniform),
        ),
    },
    spellings={".npz": ("vision_transformer", "big_vision")},
    infer=infer,
    adapt=adapt,
    express_config=express_config,
    express=express,
    restore=restore,
)
