"""Model families as frozen configurations, and the names under which models were published.

The manifest (`weights/manifest.json`) holds one row per published file: name, architecture, classes, resolution,
address, and size and digest where known.
"""

import dataclasses
import functools
import json
from pathlib import Path

from common.errors import UserError, nearest

PACKAGED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
DEFAULT_MODEL = "BiT-T-R26x0.5"


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """ResNetV2-BiT: pre-activation bottleneck blocks, group norm, weight-standardised convolutions.

    Source: Big Transfer, section 3.1 and appendix A; `bit_pytorch/models.py` of google-research/big_transfer.
    """

    num_units: tuple[
        int, ...
    ]  # bottleneck blocks per stage; the first block of each stage but the first halves H and W
    width_factor: float
    num_classes: int
    num_groups: int = 32
    group_norm_epsilon: float = 1e-5
    standardization_epsilon: float = 1e-10  # added to the variance

    @property
    def stem_width(self) -> int:
        return int(64 * self.width_factor)

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """(input width, output width, stride) of every bottleneck block, in order."""
        rows, width = [], self.stem_width
        for stage, count in enumerate(self.num_units):
            for unit in range(count):
                out_width = int(256 * self.width_factor) * 2**stage
                rows.append((width, out_width, 2 if stage > 0 and unit == 0 else 1))
                width = out_width
        return tuple(rows)

    @property
    def width(self) -> int:
        """Number of features before the head."""
        return self.blocks[-1][1]

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """{canonical name: shape} in the order of the forward pass; kernels are HWIO and [in, out]."""
        shapes = {"stem/kernel": (7, 7, 3, self.stem_width)}
        for i, (in_width, out_width, _) in enumerate(self.blocks):
            block, middle = f"blocks/{i}", out_width // 4
            shapes |= {f"{block}/norm1/{leaf}": (in_width,) for leaf in ("scale", "bias")}
            if in_width != out_width:  # every block that strides also widens
                shapes[f"{block}/proj/kernel"] = (1, 1, in_width, out_width)
            shapes[f"{block}/conv1/kernel"] = (1, 1, in_width, middle)
            shapes |= {f"{block}/norm2/{leaf}": (middle,) for leaf in ("scale", "bias")}
            shapes[f"{block}/conv2/kernel"] = (3, 3, middle, middle)
            shapes |= {f"{block}/norm3/{leaf}": (middle,) for leaf in ("scale", "bias")}
            shapes[f"{block}/conv3/kernel"] = (1, 1, middle, out_width)
        shapes |= {f"norm/{leaf}": (self.width,) for leaf in ("scale", "bias")}
        return shapes | {"head/kernel": (self.width, self.num_classes), "head/bias": (self.num_classes,)}


ARCHITECTURES = {  # name -> (num_units, width_factor); Big Transfer, section 3.1
    "R26x0.5": ((2, 2, 2, 2), 0.5),
    "R50x1": ((3, 4, 6, 3), 1),
    "R101x1": ((3, 4, 23, 3), 1),
    "R50x3": ((3, 4, 6, 3), 3),
    "R101x3": ((3, 4, 23, 3), 3),
    "R152x2": ((3, 8, 36, 3), 2),
    "R152x4": ((3, 8, 36, 3), 4),
}


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """One row of the manifest."""

    name: str
    architecture: str
    num_classes: int
    source: str  # what the file was trained on
    resolution: int | None = None  # evaluation size in pixels, where the model fixes one
    url: str | None = None  # None: shipped with the project
    bytes: int | None = None
    sha256: str | None = None

    def config(self, num_classes: int | None = None) -> ResNetConfig:
        """The architecture with its published number of classes, or with `num_classes`."""
        num_units, width_factor = ARCHITECTURES[self.architecture]
        return ResNetConfig(num_units, width_factor, num_classes or self.num_classes)

    @property
    def file(self) -> str:
        """Where the weights lie below the weights folder."""
        return f"{self.name}.npz"


@functools.cache
def published_models() -> dict[str, PublishedModel]:
    """{name: row} of the whole manifest."""
    rows = json.loads((PACKAGED_WEIGHTS / "manifest.json").read_text())["models"]
    return {row["name"]: PublishedModel(**row) for row in rows}


def find_model(name: str) -> PublishedModel:
    """The manifest's row called `name`; UserError with the nearest names when there is none."""
    models = published_models()
    if name not in models:
        raise UserError(f"No model is called {name!r}{nearest(name, models)} The names stand in weights/manifest.json.")
    return models[name]
