"""Losses of image-text models over the pairs of all devices, in JAX: SIMILARITIES has one function for each.

Each takes the embeddings of the whole batch, zimg and ztxt [B, E] of length 1, of which equal rows are a pair and every
device has a share; t [1], the logarithm of what products are multiplied by, and b [1], what is added. With `chunk`, which
divides B, so many columns of logits are computed at a time and again for the gradients: a device never holds more than its
rows times a chunk. Source: `trainers/proj/image_text/siglip.py` and `_deprecated_contrastive.py` of
google-research/big_vision.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp

from bit_jax.devices import Devices
from bit_jax.layers import HIGHEST


def sigmoid(zimg: Array, ztxt: Array, t: Array, b: Array, devices: Devices, chunk: int = 0) -> Array:
    """The mean over images of the sum over all texts of -log sigmoid(s * logit), s = 1 in a pair and else -1.

    That is softplus(logit), less the logit itself in a pair. SigLIP, https://arxiv.org/abs/2303.15343.
    """
    pairs = jnp.exp(t) * (zimg * ztxt).sum(1) + b  # [B]
    (losses,) = by_chunks(sum_of_softplus, zimg, devices.all_rows(ztxt), t, b, chunk)
    return (losses.sum(0) - pairs).mean()


def softmax(zimg: Array, ztxt: Array, t: Array, b: Array | None, devices: Devices, chunk: int = 0) -> Array:
    """The mean of two cross-entropies: of each image's own text among all texts, of each text's own image among all.

    `b` would change nothing and takes no part. CLIP, https://arxiv.org/abs/2103.00020.
    """
    pairs, none = jnp.exp(t) * (zimg * ztxt).sum(1), jnp.zeros_like(t)
    of_images, of_texts = by_chunks(logsumexps, zimg, devices.all_rows(ztxt), t, none, chunk)
    among_texts, among_images = jax.nn.logsumexp(of_images, 0), of_texts.reshape(-1)
    return ((among_texts + among_images) / 2 - pairs).mean()


SIMILARITIES = {"sigmoid": sigmoid, "softmax": softmax}


def sum_of_softplus(logits: Array) -> tuple[Array]:
    """[B] of [B, C]."""
    return (jax.nn.softplus(logits).sum(1),)


def logsumexps(logits: Array) -> tuple[Array, Array]:
    """[B], [C] of [B, C]."""
    return jax.nn.logsumexp(logits, 1), jax.nn.logsumexp(logits, 0)


def softplus_slopes(logits: Array, slopes: Array) -> Array:
    """[B, C]: the gradient for logits [B, C] of `sum_of_softplus`, of what its own is [B]."""
    return jax.nn.sigmoid(logits) * slopes[:, None]


def logsumexps_slopes(logits: Array, of_rows: Array, of_columns: Array) -> Array:
    """[B, C]: the gradient for logits [B, C] of `logsumexps`, of what theirs are [B], [C]."""
    return jax.nn.softmax(logits, 1) * of_rows[:, None] + jax.nn.softmax(logits, 0) * of_columns


product = functools.partial(jnp.matmul, precision=HIGHEST)
WIDTH = 128  # of the part of a gradient that is added at a time: XLA adds no product to an array in its place
SLOPES = {sum_of_softplus: softplus_slopes, logsumexps: logsumexps_slopes}


def by_chunks(
    reduce: Callable[[Array], tuple[Array, ...]], rows: Array, columns: Array, t: Array, b: Array, chunk: int
) -> tuple[Array, ...]:
    """What `reduce` makes of the logits of rows [B, E] and each `chunk` of columns [C, E]: [C / chunk, ...]; of all at 0."""
    if not chunk:
        return tuple(found[None] for found in reduce(product(rows, (jnp.exp(t) * columns).T) + b))
    return chunks(reduce, rows, columns.reshape(-1, chunk, columns.shape[1]), t, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def chunks(reduce: Callable, rows: Array, columns: Array, t: Array, b: Array) -> tuple[Array, ...]:
    """`by_chunks` of columns [N, chunk, E], of which only one chunk's logits live at a time, for the gradients as well."""
    return lax.map(lambda part: reduce(product(rows, (jnp.exp(t) * part).T) + b), columns)


def chunks_forward(reduce: Callable, *arrays: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """`chunks`, and what its gradients need."""
    return chunks(reduce, *arrays), arrays


def chunks_backward(reduce: Callable, arrays: tuple[Array, ...], slopes: tuple[Array, ...]) -> tuple[Array, ...]:
    """The gradients of `chunks` for each array."""
    rows, columns, t, b = arrays
    width = math.gcd(rows.shape[1], WIDTH)

    def add(
        sums: tuple[Array, Array, Array], given: tuple[tuple[Array, ...], Array]
    ) -> tuple[tuple[Array, Array, Array], Array]:
        (to_rows, to_t, to_b), (slopes, part) = sums, given
        part = jnp.exp(t) * part
        to_logits = SLOPES[reduce](product(rows, part.T) + b, *slopes)
        narrow = part.reshape(len(part), -1, width)
        add_narrow = lambda k, to_rows: to_rows.at[:, k].add(product(to_logits, narrow[:, k]))
        to_rows = lax.fori_loop(0, narrow.shape[1], add_narrow, to_rows)
        to_part = product(to_logits.T, rows)
        return (to_rows, to_t + (to_part * part).sum(), to_b + to_logits.sum()), jnp.exp(t) * to_part

    start = jnp.zeros_like(rows.reshape(len(rows), -1, width)), jnp.zeros_like(t), jnp.zeros_like(b)
    (to_rows, to_t, to_b), to_columns = lax.scan(add, start, (slopes, columns))
    return to_rows.reshape(rows.shape), to_columns, to_t, to_b


chunks.defvjp(chunks_forward, chunks_backward)
