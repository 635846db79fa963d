"""BiT's ResNetV2: a frozen configuration, the variants of the paper, and what ResNets have in common."""

import dataclasses
from typing import Any

from common.models.checks import COUNT, COUNTS, OPTIONAL, POSITIVE, Kind, check_fields, check_groups, choice, is_counts
from common.models.draws import HEAD_AND_NORMS, lecun_normal, untruncated_lecun_normal
from common.models.family import Config, Family, Seen, Shapes, dense, norm

SIZES = ("num_units", "width_factor", "num_groups")
KINDS = {
    "num_units": COUNTS, "width_factor": POSITIVE, "num_classes": OPTIONAL, "num_groups": COUNT,
    "group_norm_epsilon": POSITIVE, "standardization_epsilon": POSITIVE,
}  # fmt: skip
STAGES = Kind(lambda value: is_counts(value) and len(value) > 0, "whole numbers of at least 1, one for each stage")


def stages(num_units: tuple[int, ...], width_factor: float) -> tuple[tuple[int, int, int], ...]:
    """(input width, output width, stride) of every bottleneck block; all stages but the first halve H and W."""
    rows, width = [], int(64 * width_factor)
    for stage, count in enumerate(num_units):
        for unit in range(count):
            out_width = 4 * int(64 * width_factor) * 2**stage
            rows.append((width, out_width, 2 if stage > 0 and unit == 0 else 1))
            width = out_width
    return tuple(rows)


def infer_fields(seen: Seen, stem: str) -> dict[str, Any]:
    """Fields of a ResNet whose first kernel is called `stem`: each stage begins with a projection."""
    counts, block = [], 0
    while f"blocks/{block}/conv1/kernel" in seen.shapes:
        if f"blocks/{block}/proj/kernel" in seen.shapes or not counts:
            counts.append(0)
        counts[-1] += 1
        block += 1
    fields = {"num_units": tuple(counts), "width_factor": seen.shapes[stem][-1] / 64, "num_classes": seen.num_classes}
    groups = {name: seen.facts[name] for name in ("num_groups",) if name in seen.facts}  # which no array shows
    return fields | seen.computes | groups


class Bottlenecks(Config):
    """Base of the configurations with `num_units` and `width_factor`: their stem and blocks have the same widths."""

    @property
    def stem_width(self) -> int:
        """Channels after the first convolution."""
        return int(64 * self.width_factor)

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """(input width, output width, stride) of every bottleneck block, in order."""
        return stages(self.num_units, self.width_factor)

    @property
    def feature_width(self) -> int:
        """Number of features before the head."""
        return self.width


@dataclasses.dataclass(frozen=True)
class ResNetConfig(Bottlenecks):
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

    def __post_init__(self):
        check_fields(self, "A BiT", KINDS | {"num_units": STAGES, "max_pool_padding": choice("zero", "lowest")})
        check_groups(self, "A BiT")

    @property
    def width(self) -> int:
        """Number of features before the head."""
        return self.blocks[-1][1]

    def own_shapes(self) -> Shapes:
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


ARCHITECTURES = {  # name of ResNetV2-BiT -> (num_units, width_factor); Big Transfer, section 3.1
    "R26x0.5": ((2, 2, 2, 2), 0.5),
    "R50x1": ((3, 4, 6, 3), 1),
    "R101x1": ((3, 4, 23, 3), 1),
    "R50x3": ((3, 4, 6, 3), 3),
    "R101x3": ((3, 4, 23, 3), 3),
    "R152x2": ((3, 8, 36, 3), 2),
    "R152x4": ((3, 8, 36, 3), 4),
}

FAMILY = Family(
    config=ResNetConfig,
    name="BiT",
    variants={name: ResNetConfig(*row, 1000) for name, row in ARCHITECTURES.items()},
    by_name=False,  # `R50x1` was trained on ImageNet-1k, ImageNet-21k and others
    sizes=SIZES,
    initial={
        "big_transfer": (*HEAD_AND_NORMS, ("*", untruncated_lecun_normal)),
        "big_vision": (*HEAD_AND_NORMS, ("*", lecun_normal)),
    },
    spellings={".npz": ("big_transfer",), ".h5": ("big_transfer_h5",), ".hdf5": ("big_transfer_h5",)},
    infer=lambda seen: ResNetConfig(**infer_fields(seen, ResNetConfig.image_kernel)),
    needs_record=lambda config: config != ResNetConfig(config.num_units, config.width_factor, config.num_classes),
)
