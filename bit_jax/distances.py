"""Distances of logits from a teacher's: `evaluators/proj/distill/distance.py` of google-research/big_vision.

Each takes logits [B, K] of the student and of the teacher and returns one number for each example, [B]. The first five
are losses; the gradient flows into the student alone where the teacher's logits were made without one.
"""

import jax
from jax import Array
from jax import numpy as jnp


def kl(student: Array, teacher: Array, temperature: float = 1.0) -> Array:
    """temperature^2 times the Kullback-Leibler divergence of softmax(student / T) from softmax(teacher / T)."""
    return temperature**2 * divergence(jax.nn.softmax(teacher / temperature), student / temperature)


def euclidean(student: Array, teacher: Array) -> Array:
    """Length of the difference, at least 1e-6: equal logits have the gradient 0 and not 0 / 0."""
    return jnp.sqrt(l2(student, teacher) + 1e-12)


def l2(student: Array, teacher: Array) -> Array:
    """Square of the length of the difference."""
    return jnp.square(student - teacher).sum(1)


def hard(student: Array, teacher: Array, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy with the teacher's likeliest class; smoothing spreads a part of it over the *other* classes.

    The entropy of the smoothed label is taken off, so that the least possible value is 0. The label is float32, as the
    original's is, whatever the logits are.
    """
    label, others = jax.nn.one_hot(teacher.argmax(1), teacher.shape[1], dtype="float32"), teacher.shape[1] - 1
    if label_smoothing:
        label = (1 - label_smoothing) * label + label_smoothing / others * (1 - label)
    return divergence(label.astype(student.dtype), student)


def logsoftmax_euclidean(student: Array, teacher: Array) -> Array:
    """`euclidean` of the logarithms of the probabilities."""
    return euclidean(jax.nn.log_softmax(student), jax.nn.log_softmax(teacher))


def agree(student: Array, teacher: Array, k: int = 1) -> Array:
    """Whether the teacher's likeliest class is among the student's `k` likeliest: 0 or 1. Of equals the first ranks first."""
    return rank(student, teacher.argmax(1)) < k


def divergence(probabilities: Array, logits: Array) -> Array:
    """Kullback-Leibler divergence of softmax(logits) from probabilities, both [B, K]."""
    return (probabilities * (jnp.log(jnp.maximum(probabilities, 1e-8)) - jax.nn.log_softmax(logits))).sum(1)


def rank(logits: Array, labels: Array) -> Array:
    """The number of classes of [B, K] before the labelled one, [B]: all but itself, lower ones, and later equals.

    NaN is not lower, so a model that has blown up is right nowhere.
    """
    own = jnp.take_along_axis(logits, labels[:, None], 1)
    classes = jnp.arange(logits.shape[1])
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    return logits.shape[1] - behind.sum(1)


DISTANCES = {
    "kl": kl,
    "euclidean": euclidean,
    "l2": l2,
    "hard": hard,
    "logsoftmax_euclidean": logsoftmax_euclidean,
}
