"""Distances of logits from a teacher's: `evaluators/proj/distill/distance.py` of google-research/big_vision.

Each takes logits [B, K] of the student and of the teacher and returns one number for each example, [B]. The first five
are losses; the gradient flows into the student alone where the teacher's logits were made without one.
"""

import tensorflow as tf
from tensorflow import Tensor


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """temperature^2 times the Kullback-Leibler divergence of softmax(student / T) from softmax(teacher / T)."""
    return temperature**2 * divergence(tf.nn.softmax(teacher / temperature), student / temperature)


def euclidean(student: Tensor, teacher: Tensor) -> Tensor:
    """Length of the difference, at least 1e-6: equal logits have the gradient 0 and not 0 / 0."""
    return tf.sqrt(l2(student, teacher) + 1e-12)


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Square of the length of the difference."""
    return tf.reduce_sum(tf.square(student - teacher), 1)


def hard(student: Tensor, teacher: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the teacher's likeliest class; smoothing spreads a part of it over the *other* classes.

    The entropy of the smoothed label is taken off, so that the least possible value is 0. The label is float32, as the
    original's is, whatever the logits are.
    """
    label, others = tf.one_hot(tf.argmax(teacher, 1), teacher.shape[1]), teacher.shape[1] - 1
    if label_smoothing:
        label = (1 - label_smoothing) * label + label_smoothing / others * (1 - label)
    return divergence(tf.cast(label, student.dtype), student)


def logsoftmax_euclidean(student: Tensor, teacher: Tensor) -> Tensor:
    """`euclidean` of the logarithms of the probabilities."""
    return euclidean(tf.nn.log_softmax(student), tf.nn.log_softmax(teacher))


def agree(student: Tensor, teacher: Tensor, k: int = 1) -> Tensor:
    """Whether the teacher's likeliest class is among the student's `k` likeliest: 0 or 1. Of equals the first ranks first."""
    return rank(student, tf.argmax(teacher, 1, tf.int32)) < k


def divergence(probabilities: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax(logits) from probabilities, both [B, K]."""
    excess = tf.math.log(tf.maximum(probabilities, 1e-8)) - tf.nn.log_softmax(logits)
    return tf.reduce_sum(probabilities * excess, 1)


def rank(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of classes of [B, K] before the labelled one, [B]: all but itself, lower ones, and later equals.

    NaN is not lower, so a model that has blown up is right nowhere.
    """
    own = tf.gather(logits, labels[:, None], axis=1, batch_dims=1)
    classes = tf.range(logits.shape[1])
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    return logits.shape[1] - tf.reduce_sum(tf.cast(behind, tf.int32), 1)


DISTANCES = {
    "kl": kl,
    "euclidean": euclidean,
    "l2": l2,
    "hard": hard,
    "logsoftmax_euclidean": logsoftmax_euclidean,
}
