"""LoRA: small matrices beside dense kernels, which learn in their place (https://arxiv.org/abs/2106.09685).

A layer with a kernel [in, out] that is adapted computes x @ kernel + alpha / rank * (x @ lora_a) @ lora_b.
"""

import dataclasses
import re

# As in the paper, and in its code; a Mixer, which has no attention, adapts what mixes its channels.
TARGETS = r"(.*/)?blocks/\d+/((cross_)?attn/(query|value)|channel_mixing/fc[12])/kernel"
TRAINED = (
    r"((image|text)/)?head(_dist)?/kernel|third/.*"  # heads, and projections of a third tower: are trained themselves
)
A, B = "lora_a", "lora_b"
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Lora:
    """How the kernels are adapted whose whole canonical name the regular expression `targets` fits."""

    rank: int
    alpha: float
    targets: str

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    def kernels(self, shapes: Shapes) -> list[str]:
        """Those of the parameters that are adapted: dense kernels, but for heads."""
        return [name for name in dense_kernels(shapes) if re.fullmatch(self.targets, name)]

    def shapes(self, shapes: Shapes) -> Shapes:
        """{name: shape} of the matrices beside the kernels among `shapes`: lora_a [in, rank] and lora_b [rank, out]."""
        found = {}
        for name in self.kernels(shapes):
            (wide, out), layer = shapes[name], name.removesuffix("kernel")
            found |= {f"{layer}{A}": (wide, self.rank), f"{layer}{B}": (self.rank, out)}
        return found


def dense_kernels(shapes: Shapes) -> list[str]:
    """The kernels of dense layers, but for heads."""
    return [
        name
        for name, shape in shapes.items()
        if name.endswith("/kernel") and len(shape) == 2 and not re.fullmatch(TRAINED, name)
    ]
