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
    pairs = tf.exp(t) * tf.reduce_sum(zimg * ztxt, 1) + b  # [B]
    losses = tf.reduce_sum(by_chunks(sum_of_softplus, zimg, devices.all_rows(ztxt), t, b, chunk), 0)
    return tf.reduce_mean(losses - pairs)


def softmax(zimg: Tensor, ztxt: Tensor, t: Tensor, b: Tensor | None, devices: Devices, chunk: int = 0) -> Tensor:
    """The mean of two cross-entropies: of each image's own text among all texts, of each text's own image among all.

    `b` would change nothing and takes no part. CLIP, https://arxiv.org/abs/2103.00020.
    """
    pairs, none = tf.exp(t) * tf.reduce_sum(zimg * ztxt, 1), tf.zeros_like(t)
    among_texts = by_chunks(logsumexp, zimg, devices.all_rows(ztxt), t, none, chunk)
    among_images = by_chunks(logsumexp, ztxt, devices.all_rows(zimg), t, none, chunk)
    among = logsumexp(tf.transpose(among_texts)) + logsumexp(tf.transpose(among_images))
    return tf.reduce_mean(among / 2 - pairs)


SIMILARITIES = {"sigmoid": sigmoid, "softmax": softmax}


def sum_of_softplus(logits: Tensor) -> Tensor:
    """[B] of [B, C]."""
    return tf.reduce_sum(tf.nn.softplus(logits), 1)


def logsumexp(logits: Tensor) -> Tensor:
    """[B] of [B, C]."""
    return tf.reduce_logsumexp(logits, 1)


SLOPES = {sum_of_softplus: tf.sigmoid, logsumexp: tf.nn.softmax}  # of the sum for each logit


def by_chunks(
    reduce: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor, t: Tensor, b: Tensor, chunk: int
) -> Tensor:
    """What `reduce` makes of the logits of rows [B, E] and each `chunk` of columns [C, E]: [C / chunk, B]; of all at 0."""
    if not chunk:
        return reduce(tf.matmul(rows, tf.exp(t) * columns, transpose_b=True) + b)[None]
    return chunks(reduce, rows, tf.reshape(columns, (-1, chunk, columns.shape[1])), t, b)


def chunks(reduce: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor, t: Tensor, b: Tensor) -> Tensor:
    """`by_chunks` of columns [N, chunk, E], of which only one chunk's logits live at a time, for the gradients as well."""

    @tf.custom_gradient
    def found(rows: Tensor, columns: Tensor, t: Tensor, b: Tensor) -> tuple[Tensor, Callable]:
        logits = lambda part: tf.matmul(rows, tf.exp(t) * part, transpose_b=True) + b

        def gradient(slopes: Tensor) -> tuple[Tensor, ...]:
            def add(n: Tensor, to_rows: Tensor, to_columns: tf.TensorArray, to_t: Tensor, to_b: Tensor) -> tuple:
                part = tf.exp(t) * columns[n]
                to_logits = SLOPES[reduce](logits(columns[n])) * slopes[n][:, None]
                to_part = tf.matmul(to_logits, rows, transpose_a=True)
                to_rows += tf.matmul(to_logits, part)
                to_t, to_b = to_t + tf.reduce_sum(to_part * part), to_b + tf.reduce_sum(to_logits)
                return n + 1, to_rows, to_columns.write(n, tf.exp(t) * to_part), to_t, to_b

            count, sums = columns.shape[0], (tf.zeros_like(t), tf.zeros_like(b))
            start = tf.constant(0), tf.zeros_like(rows), tf.TensorArray(rows.dtype, count), *sums
            is_left = lambda n, *_: n < count
            _, to_rows, to_columns, to_t, to_b = tf.while_loop(is_left, add, start, parallel_iterations=1)
            return to_rows, to_columns.stack(), to_t, to_b

        return tf.map_fn(lambda part: reduce(logits(part)), columns, parallel_iterations=1), gradient

    return found(rows, columns, t, b)
