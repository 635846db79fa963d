"""How vectors become codes in JAX: by a codebook that follows them, or rounded (FSQ). N vectors of C numbers, V codes."""

import functools

import jax
from flax import nnx
from jax import Array, lax
from jax import numpy as jnp

from bit_jax.layers import HIGHEST, random_bits, standardize
from common.models import VqVaeConfig
from common.models.discrete import Rounding

PERTURBATION = 0.001  # of a word that takes a dead one's place
State = tuple[Array, Array, Array]  # dictionary [V, C], counts [V], number of words that were split


class Codebook(nnx.Module):
    """V words, of which a vector, standardised, becomes the nearest. No gradient moves them: they are means of such vectors.

    `dictionary` / `counts` are sums and numbers of the vectors that had each word, discounted by `momentum` a step; a word is
    the quotient, of length 1. Sources: `models/proj/uvim/vit.py` of google-research/big_vision; VQ-VAE, appendix A.1
    (https://arxiv.org/abs/1711.00937).
    """

    def __init__(self, config: VqVaeConfig):
        self.dictionary = nnx.Param(jnp.zeros((config.vocabulary, config.code_width)))
        self.counts = nnx.Param(jnp.zeros(config.vocabulary))
        self.momentum, self.least_count = config.momentum, config.least_count

    def words(self) -> Array:
        """[V, C], each of length 1."""
        means = self.dictionary[...] / self.counts[...][:, None]
        return means / jnp.linalg.norm(means, axis=1, keepdims=True)

    def coded(self, z: Array) -> tuple[Array, Array, Array]:
        """(vectors standardised, the nearest words in their place, codes int [B, N]) of [B, N, C]; gradients pass through."""
        z, words = standardize(z, (-1,), 1e-5), self.words()
        codes = (jnp.square(words).sum(1) - 2 * jnp.matmul(z, words.T, precision=HIGHEST)).argmin(2)
        return z, z + lax.stop_gradient(words[codes] - z), codes.astype(jnp.int32)

    def look_up(self, codes: Array, dtype: jnp.dtype) -> Array:
        """The words [B, N, C] of codes [B, N]."""
        return self.words().astype(dtype)[codes]

    def statistics(self, z: Array, codes: Array) -> dict[str, Array]:
        """Means over images: how many vectors [B, N, C] have each of the codes [B, N], and their sums."""
        sums = jnp.zeros_like(self.dictionary[...]).at[codes].add(z)
        return {"code_counts": mean_counts(codes, self.counts.size, z.dtype), "code_sums": sums / len(codes)}


@functools.partial(jax.jit, static_argnames=("momentum", "least_count"), donate_argnums=(0, 1))
def learned(
    dictionary: Array, counts: Array, new_counts: Array, new_sums: Array, seed: Array, *, momentum: float, least_count: float
) -> tuple[Array, Array]:  # fmt: skip
    """(dictionary, counts) after a step, of whose vectors so many [V] have each code, with these sums [V, C]."""
    state = momentum * dictionary + new_sums, momentum * counts + new_counts, jnp.int32(0)
    has_dead = functools.partial(has_dead_words, least_count=least_count)
    return lax.while_loop(has_dead, functools.partial(split, seed=seed), state)[:2]


def has_dead_words(state: State, least_count: float) -> Array:
    """Whether a word is dead and another one frequent enough for two: where none is, splitting would never end."""
    _, counts, _ = state
    return (counts.min() < least_count) & (counts.max() >= 2 * least_count)


def split(state: State, seed: Array) -> State:
    """Put half of the most frequent word, a little changed by what is drawn, in the place of the least."""
    dictionary, counts, number = state
    most, least = counts.argmax(), counts.argmin()
    drawn = random_bits(jnp.stack([seed, number])[None], dictionary.shape[1])[0].astype(counts.dtype) / 2**24
    half, count = dictionary[most] / 2, counts[most] / 2
    dictionary = dictionary.at[least].set(half * (1 - PERTURBATION + 2 * PERTURBATION * drawn)).at[most].set(half)
    return dictionary, counts.at[least].set(count).at[most].set(count), number + 1


class Levels(nnx.Module):
    """Finite scalar quantization (https://arxiv.org/abs/2309.15505): each number of a vector is rounded to one of its levels."""

    def __init__(self, config: VqVaeConfig):
        self.levels, self.vocabulary = config.levels, config.vocabulary

    def coded(self, z: Array) -> tuple[Array, Array, Array]:
        """(vectors bounded to [-1, 1], rounded, codes int [B, N]) of [B, N, C]; gradients pass through the rounding."""
        numbers = Rounding.of(self.levels)
        reach, offset, shift, half = (jnp.asarray(row, z.dtype) for row in numbers[:4])
        bounded = jnp.tanh(z + shift) * reach - offset
        rounded = bounded + lax.stop_gradient(jnp.round(bounded) - bounded)
        codes = ((jnp.round(bounded) + half).astype(jnp.int32) * jnp.asarray(numbers.basis, jnp.int32)).sum(2)
        return bounded / half, rounded / half, codes.astype(jnp.int32)

    def look_up(self, codes: Array, dtype: jnp.dtype) -> Array:
        """The rounded vectors [B, N, C] of codes [B, N]."""
        numbers = Rounding.of(self.levels)
        half = jnp.asarray(numbers.half, dtype)
        basis, levels = (jnp.asarray(row, jnp.int32) for row in (numbers.basis, self.levels))
        return (codes[:, :, None] // basis % levels - half) / half

    def statistics(self, z: Array, codes: Array) -> dict[str, Array]:
        """The mean over images of how many vectors have each of the codes [B, N]."""
        return {"code_counts": mean_counts(codes, self.vocabulary, z.dtype)}


def mean_counts(codes: Array, vocabulary: int, dtype: jnp.dtype) -> Array:
    """[V]: how often codes [B, N] have each number, for an image."""
    return jnp.zeros(vocabulary, dtype).at[codes].add(1) / len(codes)
