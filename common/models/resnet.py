"""ResNets: BiT's ResNetV2, and the ResNet V1 of big_vision, whose stages are also the backbone of hybrid ViTs."""

import dataclasses
from typing import ClassVar

from common.models.checks import COUNT, COUNTS, OPTIONAL, POSITIVE, Kind, check_fields, check_groups, choice, is_counts
from common.system.errors import UserError

SIZES = {
    "num_units": COUNTS, "width_factor": POSITIVE, "num_classes": OPTIONAL, "num_groups": COUNT,
    "group_norm_epsilon": POSITIVE, "standardization_epsilon": POSITIVE,
}  # fmt: skip
STAGES = Kind(lambda value: is_counts(value) and len(value) > 0, "whole numbers of at least 1, one for each stage")
Shapes = dict[str, tuple[int, ...]]  # {canonical name: shape}, in the order of the forward pass


def stages(num_units: tuple[int, ...], width_factor: float) -> tuple[tuple[int, int, int], ...]:
    """(input width, output width, stride) of every bottleneck block; all stages but the first halve H and W."""
    rows, width = [], int(64 * width_factor)
    for stage, count in enumerate(num_units):
        for unit in range(count):
            out_width = 4 * int(64 * width_factor) * 2**stage
            rows.append((width, out_width, 2 if stage > 0 and unit == 0 else 1))
            width = out_width
    return tuple(rows)


def norm(name: str, width: int) -> Shapes:
    """The two parameters of a normalisation."""
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def dense(name: str, *shape: int) -> Shapes:
    """Kernel of `shape`, [in, out] or HWIO, and bias of a layer."""
    return {f"{name}/kernel": shape, f"{name}/bias": shape[-1:]}


def check_image(expected: tuple[int, int], found: tuple[int, int]) -> None:
    """Raise UserError where images have another height and width than a model takes."""
    if tuple(found) != tuple(expected):
        expected, found = (" x ".join(map(str, size)) for size in (expected, found))
        raise UserError(f"The model takes {expected} pixels and the images have {found}; resize one or the other.")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """ResNetV2-BiT: pre-activation bottleneck blocks, group norm, weight-standardised convolutions.

    Source: Big Transfer, section 3.1 and appendix A; `bit_pytorch/models.py` of google-research/big_transfer. The same
    network is `models/bit_paper.py` of google-research/big_vision, but for the border of its max-pool.

    Parameters, with M = output width / 4 of a block:
        stem/kernel [7, 7, 3, C]
        blocks/i/{norm1/{scale,bias} [in], proj/kernel [1, 1, in, out] (where the width changes),
            conv1/kernel [1, 1, in, M], norm2/* [M], conv2/kernel [3, 3, M, M], norm3/* [M],
            conv3/kernel [1, 1, M, out]}
        norm/{scale,bias} [D], head/kernel [D, K], head/bias [K] (with classes)
    """

    num_units: tuple[int, ...]  # bottleneck blocks per stage
    width_factor: float
    num_classes: int | None  # None: the model's output are its features
    num_groups: int = 32
    group_norm_epsilon: float = 1e-5
    standardization_epsilon: float = 1e-10  # added to the variance
    max_pool_padding: str = "zero"  # or "lowest", -infinity, for models that big_vision's bit_paper.py trained

    num_branches: ClassVar[int] = 0  # stochastic depth and dropout are not for ResNets
    num_dropouts: ClassVar[int] = 0

    def __post_init__(self):
        check_fields(self, "A BiT", SIZES | {"num_units": STAGES, "max_pool_padding": choice("zero", "lowest")})
        check_groups(self, "A BiT")

    @property
    def stem_width(self) -> int:
        """Channels after the first convolution."""
        return int(64 * self.width_factor)

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """(input width, output width, stride) of every bottleneck block, in order."""
        return stages(self.num_units, self.width_factor)

    @property
    def width(self) -> int:
        """Number of features before the head."""
        return self.blocks[-1][1]

    def parameter_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        shapes = {"stem/kernel": (7, 7, 3, self.stem_width)}
        for i, (in_width, out_width, _) in enumerate(self.blocks):
            block, middle = f"blocks/{i}", out_width // 4
            shapes |= norm(f"{block}/norm1", in_width)
            if in_width != out_width:  # every block that strides also widens
                shapes[f"{block}/proj/kernel"] = (1, 1, in_width, out_width)
            shapes[f"{block}/conv1/kernel"] = (1, 1, in_width, middle)
            shapes |= norm(f"{block}/norm2", middle)
            shapes[f"{block}/conv2/kernel"] = (3, 3, middle, middle)
            shapes |= norm(f"{block}/norm3", middle)
            shapes[f"{block}/conv3/kernel"] = (1, 1, middle, out_width)
        shapes |= norm("norm", self.width)
        return shapes if self.num_classes is None else shapes | dense("head", self.width, self.num_classes)


@dataclasses.dataclass(frozen=True)
class ResNetV1Config:
    """ResNet V1: post-activation bottleneck blocks, group norm, weight-standardised convolutions with SAME padding.

    Source: `models/bit.py` of google-research/big_vision; without classes, the backbone of hybrid ViTs
    (`vit_jax/models_resnet.py` of google-research/vision_transformer).

    Parameters, with M = output width / 4 of a block:
        stem/conv/kernel [7, 7, 3, C], stem/norm/{scale,bias} [C]
        blocks/i/{proj/kernel [1, 1, in, out], proj_norm/{scale,bias} [out] (where the width changes or it strides),
            conv1/kernel [1, 1, in, M], norm1/* [M], conv2/kernel [3, 3, M, M], norm2/* [M],
            conv3/kernel [1, 1, M, out], norm3/* [out]}
        head/kernel [D, K], head/bias [K] (with classes)
    """

    num_units: tuple[int, ...]  # bottleneck blocks per stage; none: only the stem
    width_factor: float
    num_classes: int | None = None
    num_groups: int = 32
    group_norm_epsilon: float = 1e-6
    standardization_epsilon: float = 1e-5
    standardization: str = "deviation"  # what epsilon is added to, or "variance": timm's hybrids, with 1e-8

    num_branches: ClassVar[int] = 0  # stochastic depth and dropout are not for ResNets
    num_dropouts: ClassVar[int] = 0

    def __post_init__(self):
        check_fields(self, "A ResNet V1", SIZES | {"standardization": choice("deviation", "variance")})
        check_groups(self, "A ResNet V1")

    @property
    def stem_width(self) -> int:
        """Channels after the first convolution."""
        return int(64 * self.width_factor)

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """(input width, output width, stride) of every bottleneck block, in order."""
        return stages(self.num_units, self.width_factor)

    @property
    def width(self) -> int:
        """Number of channels of the last feature map."""
        return self.blocks[-1][1] if self.blocks else self.stem_width

    @property
    def stride(self) -> int:
        """Pixels of the image per row and column of the last feature map."""
        return 4 * 2 ** max(0, len(self.num_units) - 1)

    def parameter_shapes(self) -> Shapes:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        shapes = {"stem/conv/kernel": (7, 7, 3, self.stem_width)} | norm("stem/norm", self.stem_width)
        for i, (in_width, out_width, stride) in enumerate(self.blocks):
            block, middle = f"blocks/{i}", out_width // 4
            if in_width != out_width or stride > 1:
                shapes[f"{block}/proj/kernel"] = (1, 1, in_width, out_width)
                shapes |= norm(f"{block}/proj_norm", out_width)
            shapes[f"{block}/conv1/kernel"] = (1, 1, in_width, middle)
            shapes |= norm(f"{block}/norm1", middle)
            shapes[f"{block}/conv2/kernel"] = (3, 3, middle, middle)
            shapes |= norm(f"{block}/norm2", middle)
            shapes[f"{block}/conv3/kernel"] = (1, 1, middle, out_width)
            shapes |= norm(f"{block}/norm3", out_width)
        return shapes if self.num_classes is None else shapes | dense("head", self.width, self.num_classes)


ARCHITECTURES = {  # name of ResNetV2-BiT -> (num_units, width_factor); Big Transfer, section 3.1
    "R26x0.5": ((2, 2, 2, 2), 0.5),
    "R50x1": ((3, 4, 6, 3), 1),
    "R101x1": ((3, 4, 23, 3), 1),
    "R50x3": ((3, 4, 6, 3), 3),
    "R101x3": ((3, 4, 23, 3), 3),
    "R152x2": ((3, 8, 36, 3), 2),
    "R152x4": ((3, 8, 36, 3), 4),
}

RESNET_V1_DEPTHS = {  # number of layers -> num_units; `get_block_desc` of big_vision's models/bit.py
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
