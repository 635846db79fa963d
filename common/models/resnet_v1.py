"""The ResNet V1 of big_vision, whose stages are also the backbone of hybrid ViTs."""

import dataclasses
from typing import ClassVar

from common.models.checks import check_fields, check_groups, choice
from common.models.draws import HEAD_AND_NORMS, lecun_normal, zeros
from common.models.family import Family, Shapes, dense, norm
from common.models.resnet import KINDS, SIZES, Bottlenecks, infer_fields


@dataclasses.dataclass(frozen=True)
class ResNetV1Config(Bottlenecks):
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

    image_kernel: ClassVar[str] = "stem/conv/kernel"

    def __post_init__(self):
        check_fields(self, "A ResNet V1", KINDS | {"standardization": choice("deviation", "variance")})
        check_groups(self, "A ResNet V1")

    @property
    def has_stages(self) -> bool:
        """Whether it is more than a stem."""
        return bool(self.num_units)

    @property
    def width(self) -> int:
        """Number of channels of the last feature map."""
        return self.blocks[-1][1] if self.blocks else self.stem_width

    @property
    def stride(self) -> int:
        """Pixels of the image per row and column of the last feature map."""
        return 4 * 2 ** max(0, len(self.num_units) - 1)

    def own_shapes(self) -> Shapes:
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


RESNET_V1_DEPTHS = {  # number of layers -> num_units; `get_block_desc` of big_vision's models/bit.py
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

FAMILY = Family(
    config=ResNetV1Config,
    name="ResNet V1",
    variants={f"R{layers}": ResNetV1Config(units, 1, 1000) for layers, units in RESNET_V1_DEPTHS.items()},
    sizes=SIZES,
    initial={"big_vision": (("*/norm3/scale", zeros), *HEAD_AND_NORMS, ("*", lecun_normal))},
    spellings={".npz": ("big_vision",)},
    infer=lambda seen: ResNetV1Config(**infer_fields(seen, ResNetV1Config.image_kernel)),
)
