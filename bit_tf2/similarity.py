"""Losses of image-text models over the pairs of all devices, in TensorFlow: SIMILARITIES has one function for each.

Each takes this device's share of the embeddings, zimg and ztxt [B, E] of length 1, of which equal rows are a pair; t [1],
the logarithm of what products are multiplied by, and b [1], what is added. Averaged over the devices, loss and gradients
are those of all pairs, however they are shared. With `chunk`, which divides the pairs of all devices, so many columns of
logits are computed at a time and again for the gradients: a device never holds more than its rows times a chunk. Source:
`trainers/proj/image_text/siglip.py` and `_deprecated_contrastive.py` of google-research/big_vision.
"""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.devices import Devices


def sigmoid(zimg: Tensor, ztxt: Tensor, t: Tensor, b: Tensor, devices: Devices, chunk: int = 0) -> Tensor:
    """The mean over images of the sum over all texts of -log sigmoid(s * logit), s = 1 in a pair and else -1.

    That is softplus(logit), less the logit itself in a pair. SigLIP, https://arxiv.org/abs/2303.15343.
    """
    pairs, losses = by_chunks(sum_of_softplus, zimg, ztxt, devices.all_rows(ztxt), t, b, chunk)
    return tf.reduce_mean(tf.reduce_sum(losses, 0) - pairs)


def softmax(zimg: Tensor, ztxt: Tensor, t: Tensor, b: Tensor | None, devices: Devices, chunk: int = 0) -> Tensor:
    """The mean of two cross-entropies: of each image's own text among all texts, of each text's own image among all.

    `b` would change nothing and takes no part. CLIP, https://arxiv.org/abs/2103.00020.
    """
    columns, none = devices.all_rows(ztxt), tf.zeros_like(t)
    pairs, of_images, of_texts = by_chunks(logsumexps, zimg, ztxt, columns, t, none, chunk)
    among_texts = tf.reduce_logsumexp(of_images, 0)
    among_images = tf.reduce_logsumexp(devices.all_rows(tf.reshape(of_texts, (1, -1))), 0)
    return (tf.reduce_mean(among_texts) + tf.reduce_mean(among_images)) / 2 - tf.reduce_mean(pairs)


SIMILARITIES = {"sigmoid": sigmoid, "softmax": softmax}


def sum_of_softplus(logits: Tensor) -> tuple[Tensor]:
    """[B] of [B, C]."""
    return (tf.reduce_sum(tf.nn.softplus(logits), 1),)


def logsumexps(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[B], [C] of [B, C]."""
    return tf.reduce_logsumexp(logits, 1), tf.reduce_logsumexp(logits, 0)


def softplus_slopes(logits: Tensor, slopes: Tensor) -> Tensor:
    """[B, C]: the gradient for logits [B, C] of `sum_of_softplus`, of what its own is [B]."""
    return tf.sigmoid(logits) * slopes[:, None]


def logsumexps_slopes(logits: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """[B, C]: the gradient for logits [B, C] of `logsumexps`, of what theirs are [B], [C]."""
    return tf.nn.softmax(logits, 1) * of_rows[:, None] + tf.nn.softmax(logits, 0) * of_columns


SLOPES = {sum_of_softplus: softplus_slopes, logsumexps: logsumexps_slopes}
HEIGHT = 512  # rows of a gradient that are added at a time: TensorFlow adds no product to a tensor in its place


def by_chunks(
    reduce: Callable[[Tensor], tuple[Tensor, ...]],
    zimg: Tensor, ztxt: Tensor, columns: Tensor, t: Tensor, b: Tensor, chunk: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The logits of pairs [B], and what `reduce` makes of those of zimg [B, E] and each `chunk` of columns [C, E].

    That is [C / chunk, ...]; of all at 0.
    """
    if not chunk:
        logits = tf.matmul(zimg, tf.exp(t) * columns, transpose_b=True) + b
        return logits_of_pairs(zimg, ztxt, t, b), *(found[None] for found in reduce(logits))
    return chunks(reduce, zimg, ztxt, tf.reshape(columns, (-1, chunk, columns.shape[1])), t, b)


def logits_of_pairs(zimg: Tensor, ztxt: Tensor, t: Tensor, b: Tensor) -> Tensor:
    """[B] of [B, E] and [B, E]."""
    return tf.exp(t) * tf.reduce_sum(zimg * ztxt, 1) + b


def chunks(reduce: Callable, *arrays: Tensor) -> tuple[Tensor, ...]:
    """`by_chunks` of columns [N, chunk, E], of which only one chunk's logits live at a time, for the gradients as well."""

    @tf.custom_gradient
    def found(zimg: Tensor, ztxt: Tensor, columns: Tensor, t: Tensor, b: Tensor) -> tuple[tuple[Tensor, ...], Callable]:
        logits = lambda part: tf.matmul(zimg, tf.exp(t) * part, transpose_b=True) + b
        pairs = logits_of_pairs(zimg, ztxt, t, b)

        def gradient(to_pairs: Tensor, *slopes: Tensor) -> tuple[Tensor, ...]:
            to_logits = lambda n: SLOPES[reduce](logits(columns[n]), *(own[n] for own in slopes))
            scaled = tf.exp(t) * to_pairs[:, None]
            to_zimg, to_columns, to_t, to_b = slopes_of_products(to_logits, zimg, scaled, ztxt, columns, t)
            with tf.control_dependencies([to_zimg]):  # when the memory of the products is free again
                to_ztxt = scaled * zimg
            to_t, to_b = to_t + tf.reduce_sum(to_pairs * (pairs - b)), to_b + tf.reduce_sum(to_pairs)
            return to_zimg, to_ztxt, to_columns, to_t, to_b

        types = tuple(one.dtype for one in reduce(tf.zeros((1, 1), zimg.dtype)))
        each = tf.map_fn(lambda part: reduce(logits(part)), columns, parallel_iterations=1, fn_output_signature=types)
        return (pairs, *each), gradient

    return found(*arrays)


def slopes_of_products(
    to_logits: Callable[[Tensor], Tensor], zimg: Tensor, to_pairs: Tensor, ztxt: Tensor, columns: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `chunks` for zimg, columns, t and b, by those for logits [B, chunk] of each chunk, and of pairs.

    Those of pairs [B, 1], with exp(t), count for zimg only.
    """
    starts = range(0, zimg.shape[0], HEIGHT)

    def add(n: Tensor, to_columns: tf.TensorArray, to_t: Tensor, to_b: Tensor, *to_zimg: Tensor) -> tuple:
        part, slopes = tf.exp(t) * columns[n], to_logits(n)
        to_part = tf.matmul(slopes, zimg, transpose_a=True)
        to_t, to_b = to_t + tf.reduce_sum(to_part * part), to_b + tf.reduce_sum(slopes)
        found = [to_part]
        for k, own in zip(starts, to_zimg):
            with tf.control_dependencies(found[-1:]):  # one product at a time lies in memory
                found.append(own + tf.matmul(slopes[k : k + HEIGHT], part))
        return n + 1, to_columns.write(n, tf.exp(t) * to_part), to_t, to_b, *found[1:]

    count, zero = columns.shape[0], tf.zeros_like(t)
    start = [to_pairs[k : k + HEIGHT] * ztxt[k : k + HEIGHT] for k in starts]
    start = tf.constant(0), tf.TensorArray(zimg.dtype, count), zero, zero, *start
    is_left = lambda n, *_: n < count
    _, to_columns, to_t, to_b, *to_zimg = tf.while_loop(is_left, add, start, parallel_iterations=1)
    to_columns = to_columns.stack()
    with tf.control_dependencies([to_columns]):  # one after the other: each lies twice in memory for a while
        return tf.concat(to_zimg, 0), to_columns, to_t, to_b
