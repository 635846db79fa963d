"""How texts about images are written token by token, in TensorFlow: likeliest tokens, beams, or draws."""

import math

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.decoder import Decoder, Memory, spread
from common.recipes.task import Writing

AS_LIKELY = 1 - 1e-4  # of the least share in a nucleus: down to it, rounding alone tells tokens apart


def write(
    model: Decoder, encoded: Tensor, prompt: Tensor, end: Tensor, writing: Writing, draws: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(tokens int32 [B, L], log-likelihoods [B]) of texts about patches [B, P, E]; behind the `end` int [B] come zeros.

    Of fewer images, B / K, each has K texts that follow one another.

    Where `prompt` int [B, L] is not 0, the text has its token, which costs nothing. With `writing.beams`, so many
    likeliest beginnings are kept; with `writing.top_p`, tokens are drawn by the numbers `draws` [B, L] in [0, 1) from the
    likeliest ones that have this share together (nucleus sampling, https://arxiv.org/abs/1904.09751), at `writing.temperature`.
    """
    (count, length), beams = prompt.shape, writing.beams
    image = [spread(pair, count * beams) for pair in model.look_at(encoded)]
    memory = model.empty(image, length)

    def step(place: Tensor, tokens: Tensor, token: Tensor, ended: Tensor, scores: Tensor, kept: list) -> tuple:
        logits, memory = model.step(tf.reshape(token, (-1,)), place, Memory(kept, image))
        rated = tf.reshape(tf.nn.log_softmax(logits), (count, beams, -1))
        rated = allowed(rated, tf.gather(prompt, place, axis=1), ended)  # [B, W, V]
        if writing.top_p:
            token = drawn(rated[:, 0], tf.gather(draws, place, axis=1), writing)[:, None]
            scores = scores + tf.gather(rated, token, axis=2, batch_dims=2)
        else:
            scores, chosen = tf.math.top_k(tf.reshape(scores[:, :, None] + rated, (count, -1)), beams)
            parent, token = chosen // rated.shape[2], chosen % rated.shape[2]
            if beams > 1:
                tokens, ended, memory = followed(tokens, ended, memory, parent)
        tokens = tf.where(tf.range(length) == place, token[:, :, None], tokens)
        return place + 1, tokens, token, ended | (token == end[:, None]), scores, memory.tokens

    def is_left(place: Tensor, tokens: Tensor, token: Tensor, ended: Tensor, *_) -> Tensor:
        return (place < length) & ~tf.reduce_all(ended)

    tokens = tf.zeros((count, beams, length), tf.int32)
    scores = tf.tile(tf.constant([[0.0] + [-math.inf] * (beams - 1)], model.dtype), (count, 1))
    start = tf.constant(0), tokens, tokens[:, :, 0], tokens[:, :, 0] > 0, scores, memory.tokens
    _, tokens, _, _, scores, _ = tf.while_loop(is_left, step, start)
    return tokens[:, 0], scores[:, 0]


def allowed(rated: Tensor, prompt: Tensor, ended: Tensor) -> Tensor:
    """Log-likelihoods [B, W, V], but 0 of the one token that may follow: the prompt's [B], or 0 where a text has `ended` [B, W]."""
    forced = tf.where(ended, 0, prompt[:, None])[:, :, None]
    only = tf.where(tf.range(rated.shape[2]) == forced, tf.zeros((), rated.dtype), tf.constant(-math.inf, rated.dtype))
    return tf.where((ended | (prompt[:, None] > 0))[:, :, None], only, rated)


def drawn(rated: Tensor, draws: Tensor, writing: Writing) -> Tensor:
    """A token [B] for each row of log-likelihoods [B, V] and number [B].

    Tokens divide [0, 1) in the order of the vocabulary. By falling shares, rounding would order those that are as likely as one
    another, like all that no text of the training had, and each engine would draw others.
    """
    # TensorFlow rounds at every token, by which float32 would draw other ones than elsewhere: findings/cumsum.sh.
    cumulated = lambda values: tf.cast(tf.cumsum(tf.cast(values, tf.float64), 1), values.dtype)
    shares = tf.nn.softmax(rated / writing.temperature)
    if writing.top_p < 1:
        largest = tf.sort(shares, 1, direction="DESCENDING")
        is_kept = cumulated(largest) - largest < writing.top_p
        least = tf.reduce_min(tf.where(is_kept, largest, math.inf), 1, keepdims=True)
        shares = tf.where(shares >= AS_LIKELY * least, shares, tf.zeros_like(shares))
    until = cumulated(shares)
    mass = until[:, -1:]
    passed = (until <= tf.cast(draws[:, None], mass.dtype) * mass) & (until < mass)  # rounding may give 1 * mass
    return tf.reduce_sum(tf.cast(passed, tf.int32), 1)


def followed(tokens: Tensor, ended: Tensor, memory: Memory, parent: Tensor) -> tuple[Tensor, Tensor, Memory]:
    """What belongs to the beams `parent` [B, W] that live on."""
    count, beams = parent.shape
    rows = tf.reshape(parent + beams * tf.range(count)[:, None], (-1,))
    kept = tf.nest.map_structure(lambda part: tf.gather(part, rows), memory.tokens)  # beams see the same patches
    tokens, ended = (tf.gather(values, parent, batch_dims=1) for values in (tokens, ended))
    return tokens, ended, memory._replace(tokens=kept)
