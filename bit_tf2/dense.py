"""What a model of maps reads and predicts, in TensorFlow. B maps of H x W pixels, L patches of P pixels, b bins.

A map that is read is {name: values [B, L, b, P] in [-1, 1], or classes int [B, L, P]}, one that is predicted {name: [B, L, b, P]}.
"""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from common.models import VqVaeConfig
from common.models.discrete import FARTHEST, MAPS, NEAREST, depth_edges


def read(maps: Tensor, config: VqVaeConfig, dtype: tf.DType) -> dict[str, Tensor]:
    """Maps of a batch [B, H, W, n] as a model reads them."""
    found = READ[config.target](maps, config, dtype)
    if MAPS[config.target].kind == "values":
        return {config.names[0]: patches(found, config)}
    return {name: patches(found[..., i : i + 1], config)[:, :, 0] for i, name in enumerate(config.names)}


def scaled(maps: Tensor, config: VqVaeConfig, dtype: tf.DType) -> Tensor:
    """Colours uint8 in [-1, 1]."""
    return tf.cast(maps, dtype) / 127.5 - 1


def depth_classes(maps: Tensor, config: VqVaeConfig, dtype: tf.DType) -> Tensor:
    """Metres as classes of equal width; what is nearer or farther than all, and not measured, as the first or the last."""
    edges = tf.constant(depth_edges(*config.bins), maps.dtype)
    return tf.reshape(tf.searchsorted(edges, tf.reshape(maps, (-1,)), side="right"), tf.shape(maps))


READ = {"colorization": scaled, "depth": depth_classes, "panoptic": lambda maps, config, dtype: maps}


def patches(x: Tensor, config: VqVaeConfig) -> Tensor:
    """[B, H, W, n] -> [B, L, n, P]."""
    (rows, columns), (height, width) = config.grid, config.patch_size
    count = x.shape[3]
    x = tf.transpose(tf.reshape(x, (-1, rows, height, columns, width, count)), (0, 1, 3, 5, 2, 4))
    return tf.reshape(x, (-1, rows * columns, count, height * width))


def pixels(x: Tensor, config: VqVaeConfig) -> Tensor:
    """The inverse of `patches`."""
    (rows, columns), (height, width) = config.grid, config.patch_size
    count = x.shape[2]
    x = tf.transpose(tf.reshape(x, (-1, rows, columns, count, height, width)), (0, 1, 4, 2, 5, 3))
    return tf.reshape(x, (-1, rows * height, columns * width, count))


def shown(found: dict[str, Tensor], config: VqVaeConfig, dtype: tf.DType) -> dict[str, Tensor]:
    """What the encoder is shown of maps that were read: {name: [B, L, b * P]}, classes as ones among zeros."""
    if MAPS[config.target].kind == "values":
        return {name: tf.cast(flat(values), dtype) for name, values in found.items()}
    return {name: flat(one_hot(found[name], bins, dtype)) for name, bins in zip(config.names, config.bins)}


def flat(x: Tensor) -> Tensor:
    """[B, L, b, P] -> [B, L, b * P]."""
    return tf.reshape(x, (-1, x.shape[1], x.shape[2] * x.shape[3]))


def one_hot(classes: Tensor, bins: int, dtype: tf.DType) -> Tensor:
    """[B, L, P] -> [B, L, b, P]; of what is no class, zeros."""
    return tf.cast(classes[:, :, None] == tf.range(bins, dtype=classes.dtype)[:, None], dtype)


def map_error(logits: dict[str, Tensor], found: dict[str, Tensor], config: VqVaeConfig) -> Tensor:
    """The mean over pixels of the error of predicted maps, summed over names: squared, or the cross-entropy.

    What is no class, or one below the first that counts, has none, and counts in the mean.
    """
    kind, first = MAPS[config.target].kind, MAPS[config.target].first
    errors = {"values": squared_error, "classes": cross_entropy}[kind]
    return sum(tf.reduce_mean(errors(logits[name], found[name], first)) for name in config.names)


def squared_error(predicted: Tensor, values: Tensor, first: int) -> Tensor:
    """[B, L, b, P]."""
    return tf.square(predicted - values)


def cross_entropy(logits: Tensor, classes: Tensor, first: int) -> Tensor:
    """[B, L, P] of logits [B, L, b, P]."""
    counted = (classes >= first) & (classes < logits.shape[2])
    logs = tf.nn.log_softmax(tf.transpose(logits, (0, 1, 3, 2)))  # [B, L, P, b]
    right = tf.gather(logs, tf.where(counted, classes, 0), axis=3, batch_dims=3)
    return -right * tf.cast(counted, logits.dtype)


def predicted(logits: dict[str, Tensor], config: VqVaeConfig) -> Tensor:
    """The maps [B, H, W, n] for an evaluator: colours in [-1, 1], metres, or categories and instances int."""
    return PREDICTED[config.target](*(pixels(logits[name], config) for name in config.names))


def colors(x: Tensor) -> Tensor:
    """[B, H, W, 3]."""
    return tf.clip_by_value(x, -1, 1)


def depth(x: Tensor) -> Tensor:
    """[B, H, W, 1]: the middle of the likeliest class of [B, H, W, b]."""
    return (tf.cast(tf.argmax(x, 3)[..., None], x.dtype) + 0.5) / x.shape[3] * (FARTHEST - NEAREST) + NEAREST


def segments(semantics: Tensor, instances: Tensor) -> Tensor:
    """[B, H, W, 2]: a pixel's likeliest instance, all of whose pixels have the category that is likeliest for their sum."""
    number = tf.argmax(instances, 3, tf.int32)
    members = tf.one_hot(number, instances.shape[3], dtype=semantics.dtype)
    category = tf.argmax(tf.einsum("bhwk,bhwn->bnk", semantics, members), 2, tf.int32)
    return tf.stack([tf.gather(category, number, batch_dims=1), number], 3)


PREDICTED: dict[str, Callable[..., Tensor]] = {"colorization": colors, "depth": depth, "panoptic": segments}
