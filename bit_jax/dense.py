"""What a model of maps reads and predicts, in JAX. B maps of H x W pixels, L patches of P pixels, b bins.

A map that is read is {name: values [B, L, b, P] in [-1, 1], or classes int [B, L, P]}, one that is predicted {name: [B, L, b, P]}.
"""

from collections.abc import Callable

import jax
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import HIGHEST
from common.models import VqVaeConfig
from common.models.discrete import FARTHEST, MAPS, NEAREST, depth_edges


def read(maps: Array, config: VqVaeConfig, dtype: jnp.dtype) -> dict[str, Array]:
    """Maps of a batch [B, H, W, n] as a model reads them."""
    found = READ[config.target](maps, config, dtype)
    if MAPS[config.target].kind == "values":
        return {config.names[0]: patches(found, config)}
    return {name: patches(found[..., i : i + 1], config)[:, :, 0] for i, name in enumerate(config.names)}


def scaled(maps: Array, config: VqVaeConfig, dtype: jnp.dtype) -> Array:
    """Colours uint8 in [-1, 1]."""
    return maps.astype(dtype) / 127.5 - 1


def depth_classes(maps: Array, config: VqVaeConfig, dtype: jnp.dtype) -> Array:
    """Metres as classes of equal width; what is nearer or farther than all, and not measured, as the first or the last."""
    return jnp.searchsorted(jnp.asarray(depth_edges(*config.bins), maps.dtype), maps, side="right")


READ = {"colorization": scaled, "depth": depth_classes, "panoptic": lambda maps, config, dtype: maps}


def patches(x: Array, config: VqVaeConfig) -> Array:
    """[B, H, W, n] -> [B, L, n, P]."""
    (rows, columns), (height, width) = config.grid, config.patch_size
    x = x.reshape(-1, rows, height, columns, width, x.shape[3]).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(-1, rows * columns, x.shape[3], height * width)


def pixels(x: Array, config: VqVaeConfig) -> Array:
    """The inverse of `patches`."""
    (rows, columns), (height, width) = config.grid, config.patch_size
    x = x.reshape(-1, rows, columns, x.shape[2], height, width).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(-1, rows * height, columns * width, x.shape[5])


def shown(found: dict[str, Array], config: VqVaeConfig, dtype: jnp.dtype) -> dict[str, Array]:
    """What the encoder is shown of maps that were read: {name: [B, L, b * P]}, classes as ones among zeros."""
    if MAPS[config.target].kind == "values":
        return {name: flat(values).astype(dtype) for name, values in found.items()}
    return {name: flat(one_hot(found[name], bins, dtype)) for name, bins in zip(config.names, config.bins)}


def flat(x: Array) -> Array:
    """[B, L, b, P] -> [B, L, b * P]."""
    return x.reshape(*x.shape[:2], -1)


def one_hot(classes: Array, bins: int, dtype: jnp.dtype) -> Array:
    """[B, L, P] -> [B, L, b, P]; of what is no class, zeros."""
    return (classes[:, :, None] == jnp.arange(bins)[:, None]).astype(dtype)


def map_error(logits: dict[str, Array], found: dict[str, Array], config: VqVaeConfig) -> Array:
    """The mean over pixels of the error of predicted maps, summed over names: squared, or the cross-entropy.

    What is no class, or one below the first that counts, has none, and counts in the mean.
    """
    kind, first = MAPS[config.target].kind, MAPS[config.target].first
    errors = {"values": squared_error, "classes": cross_entropy}[kind]
    return sum(errors(logits[name], found[name], first).mean() for name in config.names)


def squared_error(predicted: Array, values: Array, first: int) -> Array:
    """[B, L, b, P]."""
    return jnp.square(predicted - values)


def cross_entropy(logits: Array, classes: Array, first: int) -> Array:
    """[B, L, P] of logits [B, L, b, P]."""
    counted = (classes >= first) & (classes < logits.shape[2])
    right = jnp.where(counted, classes, 0)[:, :, None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits, 2), right, 2)[:, :, 0] * counted.astype(logits.dtype)


def predicted(logits: dict[str, Array], config: VqVaeConfig) -> Array:
    """The maps [B, H, W, n] for an evaluator: colours in [-1, 1], metres, or categories and instances int."""
    return PREDICTED[config.target](*(pixels(logits[name], config) for name in config.names))


def colors(x: Array) -> Array:
    """[B, H, W, 3]."""
    return x.clip(-1, 1)


def depth(x: Array) -> Array:
    """[B, H, W, 1]: the middle of the likeliest class of [B, H, W, b]."""
    return (x.argmax(3, keepdims=True).astype(x.dtype) + 0.5) / x.shape[3] * (FARTHEST - NEAREST) + NEAREST


def segments(semantics: Array, instances: Array) -> Array:
    """[B, H, W, 2]: a pixel's likeliest instance, all of whose pixels have the category that is likeliest for their sum."""
    number = instances.argmax(3)
    members = jax.nn.one_hot(number, instances.shape[3], dtype=semantics.dtype)
    category = jnp.einsum("bhwk,bhwn->bnk", semantics, members, precision=HIGHEST).argmax(2)
    category = jnp.take_along_axis(category, number.reshape(len(number), -1), 1).reshape(number.shape)
    return jnp.stack([category, number], 3).astype(jnp.int32)


PREDICTED: dict[str, Callable[..., Array]] = {"colorization": colors, "depth": depth, "panoptic": segments}
