"""The outputs of a model's stages or blocks: the result of `model.intermediates` in every engine."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from common.models.mixer import MixerConfig
from common.models.vit import ViTConfig
from common.system.errors import UserError

Stride = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Intermediate:
    """The output of a stage of a ResNet, or of a block of a ViT or Mixer, in the framework's own tensors."""

    name: str  # `stem`, `stage1`, ... or `blocks/0`, ...
    stride: Stride  # pixels of the image per row and per column of `map`
    map: Any  # [B, C, H / stride, W / stride] in PyTorch, [B, H / stride, W / stride, C] in JAX and TensorFlow
    tokens: Any = None  # [B, L, D] of a ViT or Mixer, the class token first; `map` is the grid of its patches


def chosen(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """The wanted ones among `count` intermediates: all for None, the last `indices`, or a list, counted as Python does.

    In the order of the model. Raises UserError for others.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        wanted, is_right = range(count - indices, count), 0 <= indices <= count
    else:
        wanted = [i + count if i < 0 else i for i in indices]
        is_right = all(0 <= i < count for i in wanted)
    if not is_right:
        raise UserError(
            f"The model has {count} intermediates and was asked for {indices}; give a number up to {count}, or a list of "
            f"numbers from 0 to {count - 1}."
        )
    return sorted(set(wanted))


def stage_ends(num_units: tuple[int, ...]) -> tuple[int, ...]:
    """Number of blocks of a ResNet up to the end of each stage."""
    return tuple(itertools.accumulate(num_units))


def stage_labels(num_stages: int) -> list[tuple[str, Stride]]:
    """(name, stride) of a ResNet's first convolution and of its stages: the first of them comes after a max-pool."""
    return [("stem", (2, 2)), *((f"stage{n}", (2 ** (n + 1),) * 2) for n in range(1, num_stages + 1))]


def block_labels(config: ViTConfig | MixerConfig) -> list[tuple[str, Stride]]:
    """(name, stride) of the blocks of a ViT or Mixer."""
    return [(f"blocks/{i}", config.patch_px) for i in range(config.depth)]


ATTENDING = {  # pooling of a ViT -> whose attention shows what it looks at: that of the tokens which make its output
    "token": "the class token", "token_gap": "the class token", "map": "the probe of the pooling", "first": "the first patch",
    "gap": "all patches, in the mean", "none": "all patches, in the mean", "gap_norm": "all patches, in the mean",
}  # fmt: skip


def attending(config: ViTConfig) -> slice:
    """Those of its tokens that stand in ATTENDING, of a ViT without a probe; a distilled one has two class tokens."""
    first = config.num_prefix
    patches = slice(first, None)
    tokens = {"token": slice(config.num_cls), "token_gap": slice(config.num_cls), "first": slice(first, first + 1)}
    return (tokens | dict.fromkeys(("gap", "none", "gap_norm"), patches))[config.pooling]
