"""What a training step computes and moves, by formula: floating-point operations of its products, and values in memory."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from common.models import MixerConfig, ModelConfig, ResNetConfig, ViTConfig
from common.models.positions import prefix_tokens


class Operation(NamedTuple):
    """What the forward pass of one image does once; each value is read or written once, whatever caches keep."""

    flops: int  # of products, a multiplication and an addition for each; none for what goes value by value
    read: int  # activations
    written: int
    parameters: int = 0


class Step(NamedTuple):
    """A training step with momentum."""

    flops: int
    activations: int  # how many values of activations and of their gradients are read and written
    parameters: int  # the same of parameters, their gradients and momenta


def dense(rows: int, in_width: int, out_width: int) -> Operation:
    """A kernel that is multiplied by so many rows."""
    return Operation(2 * rows * in_width * out_width, rows * in_width, rows * out_width, in_width * out_width)


def conv(side: int, in_width: int, out_width: int, kernel_size: int = 1, stride: int = 1) -> Operation:
    """A convolution of a square image of this side, padded such that its output is the input's size / stride."""
    places, size = math.ceil(side / stride) ** 2, kernel_size**2 * in_width * out_width
    return Operation(2 * places * size, side**2 * in_width, places * out_width, size)


def by_value(count: int) -> Operation:
    """A norm, an activation or an addition of so many values."""
    return Operation(0, count, count)


def of_vit(config: ViTConfig, side: int) -> Iterator[Operation]:
    """A ViT with plain blocks; its attention reads queries, keys and values, and writes no weights."""
    patch, width = config.patch_size[0], config.width
    patches = (side // patch) ** 2
    tokens = patches + sum(count for _, count, _ in prefix_tokens(config))
    yield dense(patches, patch**2 * 3, width)
    for _ in range(config.depth):
        yield by_value(tokens * width)
        yield from [dense(tokens, width, width)] * 3
        yield Operation(4 * tokens**2 * width, 3 * tokens * width, tokens * width)
        yield dense(tokens, width, width)
        yield from mlp(tokens, width, config.mlp_dim)
        yield by_value(tokens * width)  # what the attention found is added
    yield by_value(tokens * width)
    yield dense(1, width, config.num_classes)


def of_mixer(config: MixerConfig, side: int) -> Iterator[Operation]:
    """A Mixer: one MLP over patches, another one over channels."""
    patch, width = config.patch_size[0], config.width
    patches = (side // patch) ** 2
    yield dense(patches, patch**2 * 3, width)
    for _ in range(config.depth):
        yield from mlp(width, patches, config.tokens_mlp_dim)
        yield from mlp(patches, width, config.channels_mlp_dim)
    yield by_value(patches * width)
    yield dense(1, width, config.num_classes)


def mlp(rows: int, width: int, mlp_dim: int) -> Iterator[Operation]:
    """A norm, two dense layers around a GELU, and the addition of what they are added to."""
    yield by_value(rows * width)
    yield dense(rows, width, mlp_dim)
    yield by_value(rows * mlp_dim)
    yield dense(rows, mlp_dim, width)
    yield by_value(rows * width)


def of_resnet(config: ResNetConfig, side: int) -> Iterator[Operation]:
    """A BiT; every kernel is standardised, which goes value by value."""
    yield conv(side, 3, config.stem_width, 7, 2)
    side = math.ceil(side / 4)
    yield by_value(4 * side**2 * config.stem_width)  # the max-pool
    for in_width, out_width, stride in config.blocks:
        middle, inner = out_width // 4, math.ceil(side / stride)
        yield from [by_value(side**2 * in_width)] * 2  # a norm and its ReLU
        if in_width != out_width:
            yield conv(side, in_width, out_width, stride=stride)
        yield conv(side, in_width, middle)
        yield from [by_value(side**2 * middle)] * 2
        yield conv(side, middle, middle, 3, stride)
        yield from [by_value(inner**2 * middle)] * 2
        yield conv(inner, middle, out_width)
        yield by_value(inner**2 * out_width)
        side = inner
    yield from [by_value(side**2 * config.width)] * 2
    yield dense(1, config.width, config.num_classes)


FAMILIES = {ViTConfig: of_vit, MixerConfig: of_mixer, ResNetConfig: of_resnet}


def operations(config: ModelConfig, side: int) -> list[Operation]:
    """Those of the forward pass of one square image, in their order; the first one takes the image."""
    return list(FAMILIES[type(config)](config, side))


def forward_flops(config: ModelConfig, side: int) -> int:
    """Floating-point operations of the forward pass of one image."""
    return sum(operation.flops for operation in operations(config, side))


def training_step(config: ModelConfig, side: int, batch: int) -> Step:
    """A step of `batch` images: forward, gradients of inputs, but for the image's, and of kernels; and the update with momentum.

    A product's gradients are two products as large as it. What goes value by value reads its gradient and its input again.
    """
    found = operations(config, side)
    flops = 3 * sum(operation.flops for operation in found) - found[0].flops
    activations = sum(
        3 * (operation.read + operation.written) if operation.flops else 3 * operation.read + 2 * operation.written
        for operation in found
    )
    activations -= found[0].read + found[0].written
    kernels = sum(operation.parameters for operation in found)
    standardised = 5 * kernels if isinstance(config, ResNetConfig) else 0
    # A kernel is read twice and its gradient written; the update reads three values and writes two.
    return Step(batch * flops, batch * activations, (3 + 5) * kernels + standardised)
