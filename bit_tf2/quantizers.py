"""How vectors become codes in TensorFlow: by a codebook that follows them, or rounded (FSQ). N vectors of C numbers, V codes."""

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.layers import Layer, random_bits, registered, uninitialized
from common.models import VqVaeConfig
from common.models.discrete import Rounding

PERTURBATION = 0.001  # of a word that takes a dead one's place
State = tuple[Tensor, Tensor, Tensor]  # dictionary [V, C], counts [V], number of words that were split


@registered
class Codebook(Layer):
    """V words, of which a vector, standardised, becomes the nearest. No gradient moves them: they are means of such vectors.

    `dictionary` / `counts` are sums and numbers of the vectors that had each word, discounted by `momentum` a step; a word is
    the quotient, of length 1. Sources: `models/proj/uvim/vit.py` of google-research/big_vision; VQ-VAE, appendix A.1
    (https://arxiv.org/abs/1711.00937).
    """

    def __init__(self, config: VqVaeConfig, **kwargs):
        super().__init__(**kwargs)
        shape = config.vocabulary, config.code_width
        kept = {"trainable": False, "autocast": False}  # not rounded to bfloat16 where they are used
        self.dictionary = self.add_weight(shape, uninitialized, name="dictionary", **kept)
        self.counts = self.add_weight(shape[:1], "ones", name="counts", **kept)
        self.momentum, self.least_count = config.momentum, config.least_count

    def words(self) -> Tensor:
        """[V, C], each of length 1."""
        means = tf.convert_to_tensor(self.dictionary) / tf.convert_to_tensor(self.counts)[:, None]
        return means / tf.norm(means, axis=1, keepdims=True)

    def coded(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors standardised, the nearest words in their place, codes int [B, N]) of [B, N, C]; gradients pass through."""
        z -= tf.reduce_mean(z, -1, keepdims=True)
        z, words = z * tf.math.rsqrt(tf.reduce_mean(tf.square(z), -1, keepdims=True) + 1e-5), self.words()
        distances = tf.reduce_sum(tf.square(words), 1) - 2 * tf.einsum("bnc,vc->bnv", z, words)
        codes = tf.argmin(distances, 2, tf.int32)
        return z, z + tf.stop_gradient(tf.gather(words, codes) - z), codes

    def look_up(self, codes: Tensor, dtype: tf.DType) -> Tensor:
        """The words [B, N, C] of codes [B, N]."""
        return tf.gather(tf.cast(self.words(), dtype), codes)

    def statistics(self, z: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Means over images: how many vectors [B, N, C] have each of the codes [B, N], and their sums."""
        vocabulary, width = self.dictionary.shape
        sums = tf.math.unsorted_segment_sum(tf.reshape(z, (-1, width)), tf.reshape(codes, (-1,)), vocabulary)
        images = tf.cast(tf.shape(codes)[0], z.dtype)
        return {"code_counts": mean_counts(codes, vocabulary, z.dtype), "code_sums": sums / images}


def learned(
    dictionary: Tensor, counts: Tensor, new_counts: Tensor, new_sums: Tensor, seed: Tensor, *, momentum: float, least_count: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dictionary, counts) after a step, of whose vectors so many [V] have each code, with these sums [V, C]."""
    state = momentum * dictionary + new_sums, momentum * counts + new_counts, tf.constant(0)
    has_dead = lambda *state: has_dead_words(state, least_count)
    return tf.while_loop(has_dead, lambda *state: split(state, seed), state, parallel_iterations=1)[:2]


def has_dead_words(state: State, least_count: float) -> Tensor:
    """Whether a word is dead and another one frequent enough for two: where none is, splitting would never end."""
    _, counts, _ = state
    return (tf.reduce_min(counts) < least_count) & (tf.reduce_max(counts) >= 2 * least_count)


def split(state: State, seed: Tensor) -> State:
    """Put half of the most frequent word, a little changed by what is drawn, in the place of the least."""
    dictionary, counts, number = state
    most, least = tf.argmax(counts), tf.argmin(counts)
    drawn = tf.cast(random_bits(tf.stack([seed, number])[None], dictionary.shape[1])[0], counts.dtype) / 2**24
    half, count = dictionary[most] / 2, counts[most] / 2
    words = tf.stack([half * (1 - PERTURBATION + 2 * PERTURBATION * drawn), half])
    places = tf.stack([least, most])[:, None]
    dictionary = tf.tensor_scatter_nd_update(dictionary, places, words)
    return dictionary, tf.tensor_scatter_nd_update(counts, places, tf.stack([count, count])), number + 1


@registered
class Levels(Layer):
    """Finite scalar quantization (https://arxiv.org/abs/2309.15505): each number of a vector is rounded to one of its levels."""

    def __init__(self, config: VqVaeConfig, **kwargs):
        super().__init__(**kwargs)
        self.levels, self.vocabulary = config.levels, config.vocabulary

    def coded(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors bounded to [-1, 1], rounded, codes int [B, N]) of [B, N, C]; gradients pass through the rounding."""
        numbers = Rounding.of(self.levels)
        reach, offset, shift, half = (tf.constant(row, z.dtype) for row in numbers[:4])
        bounded = tf.tanh(z + shift) * reach - offset
        rounded = bounded + tf.stop_gradient(tf.round(bounded) - bounded)
        levels = tf.cast(tf.round(bounded) + half, tf.int32)
        return bounded / half, rounded / half, tf.reduce_sum(levels * tf.constant(numbers.basis, tf.int32), 2)

    def look_up(self, codes: Tensor, dtype: tf.DType) -> Tensor:
        """The rounded vectors [B, N, C] of codes [B, N]."""
        numbers = Rounding.of(self.levels)
        half = tf.constant(numbers.half, dtype)
        basis, levels = (tf.constant(row, tf.int32) for row in (numbers.basis, self.levels))
        return (tf.cast(codes[:, :, None] // basis % levels, dtype) - half) / half

    def statistics(self, z: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """The mean over images of how many vectors have each of the codes [B, N]."""
        return {"code_counts": mean_counts(codes, self.vocabulary, z.dtype)}


def mean_counts(codes: Tensor, vocabulary: int, dtype: tf.DType) -> Tensor:
    """[V]: how often codes [B, N] have each number, for an image."""
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(tf.reshape(codes, (-1,)), dtype), tf.reshape(codes, (-1,)), vocabulary
    )
    return counts / tf.cast(tf.shape(codes)[0], dtype)
