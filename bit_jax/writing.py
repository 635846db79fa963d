"""How texts about images are written token by token, in JAX: likeliest tokens, beams, or draws."""

import jax
from jax import Array, lax
from jax import numpy as jnp

from bit_jax.decoder import Decoder, Memory, spread
from common.recipes.task import Writing

AS_LIKELY = 1 - 1e-4  # of the least share in a nucleus: down to it, rounding alone tells tokens apart


def write(
    model: Decoder, encoded: Array, prompt: Array, end: Array, writing: Writing, draws: Array | None = None
) -> tuple[Array, Array]:
    """(tokens int32 [B, L], log-likelihoods [B]) of texts about patches [B, P, E]; behind the `end` int [B] come zeros.

    Of fewer images, B / K, each has K texts that follow one another.

    Where `prompt` int [B, L] is not 0, the text has its token, which costs nothing. With `writing.beams`, so many
    likeliest beginnings are kept; with `writing.top_p`, tokens are drawn by the numbers `draws` [B, L] in [0, 1) from the
    likeliest ones that have this share together (nucleus sampling, https://arxiv.org/abs/1904.09751), at `writing.temperature`.
    """
    (count, length), beams = prompt.shape, writing.beams
    memory = model.empty([spread(image, count * beams) for image in model.look_at(encoded)], length)

    def step(state: tuple) -> tuple:
        place, tokens, token, ended, scores, memory = state
        logits, memory = model.step(token.ravel(), place, memory)
        rated = jax.nn.log_softmax(logits).reshape(count, beams, -1)
        rated = allowed(rated, prompt[:, place], ended)  # [B, W, V]
        if writing.top_p:
            token = drawn(rated[:, 0], draws[:, place], writing)[:, None]
            scores = scores + jnp.take_along_axis(rated, token[:, :, None], 2)[:, :, 0]
        else:
            scores, chosen = lax.top_k((scores[:, :, None] + rated).reshape(count, -1), beams)
            parent, token = chosen // rated.shape[2], chosen % rated.shape[2]
            if beams > 1:
                tokens, ended, memory = followed(tokens, ended, memory, parent)
        return place + 1, tokens.at[:, :, place].set(token), token, ended | (token == end[:, None]), scores, memory

    tokens = jnp.zeros((count, beams, length), jnp.int32)
    scores = jnp.full((count, beams), -jnp.inf, model.dtype).at[:, 0].set(0)
    start = 0, tokens, tokens[:, :, 0], tokens[:, :, 0] > 0, scores, memory
    _, tokens, _, _, scores, _ = lax.while_loop(lambda state: (state[0] < length) & ~state[3].all(), step, start)
    return tokens[:, 0], scores[:, 0]


def allowed(rated: Array, prompt: Array, ended: Array) -> Array:
    """Log-likelihoods [B, W, V], but 0 of the one token that may follow: the prompt's [B], or 0 where a text has `ended` [B, W]."""
    forced = jnp.where(ended, 0, prompt[:, None])[:, :, None]
    only = jnp.where(jnp.arange(rated.shape[2]) == forced, 0.0, -jnp.inf).astype(rated.dtype)
    return jnp.where((ended | (prompt[:, None] > 0))[:, :, None], only, rated)


def drawn(rated: Array, draws: Array, writing: Writing) -> Array:
    """A token [B] for each row of log-likelihoods [B, V] and number [B].

    Tokens divide [0, 1) in the order of the vocabulary. By falling shares, rounding would order those that are as likely as one
    another, like all that no text of the training had, and each engine would draw others.
    """
    shares = jax.nn.softmax(rated / writing.temperature)
    if writing.top_p < 1:
        largest = jnp.sort(shares, 1, descending=True)
        is_kept = jnp.cumsum(largest, 1) - largest < writing.top_p
        least = jnp.where(is_kept, largest, jnp.inf).min(1, keepdims=True)
        shares = jnp.where(shares >= AS_LIKELY * least, shares, 0)
    until = jnp.cumsum(shares, 1)
    mass = until[:, -1:]
    passed = (until <= draws[:, None].astype(mass.dtype) * mass) & (until < mass)  # rounding may give 1 * mass
    return passed.sum(1, dtype=jnp.int32)


def followed(tokens: Array, ended: Array, memory: Memory, parent: Array) -> tuple[Array, Array, Memory]:
    """What belongs to the beams `parent` [B, W] that live on."""
    tokens = jnp.take_along_axis(tokens, parent[:, :, None], 1)
    rows = (parent + parent.shape[1] * jnp.arange(len(parent))[:, None]).ravel()
    kept = jax.tree.map(lambda part: part[rows], memory.tokens)  # beams of one image see the same patches
    return tokens, jnp.take_along_axis(ended, parent, 1), memory._replace(tokens=kept)
