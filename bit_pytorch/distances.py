"""Distances of logits from a teacher's: `evaluators/proj/distill/distance.py` of google-research/big_vision.

Each takes logits [B, K] of the student and of the teacher and returns one number for each example, [B]. The first five
are losses; the gradient flows into the student alone where the teacher's logits were made without one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """temperature^2 times the Kullback-Leibler divergence of softmax(student / T) from softmax(teacher / T)."""
    return temperature**2 * divergence((teacher / temperature).softmax(1), student / temperature)


def euclidean(student: Tensor, teacher: Tensor) -> Tensor:
    """Length of the difference, at least 1e-6: equal logits have the gradient 0 and not 0 / 0."""
    return (l2(student, teacher) + 1e-12).sqrt()


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Square of the length of the difference."""
    return (student - teacher).square().sum(1)


def hard(student: Tensor, teacher: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the teacher's likeliest class; smoothing spreads a part of it over the *other* classes.

    The entropy of the smoothed label is taken off, so that the least possible value is 0. The label is float32, as the
    original's is, whatever the logits are.
    """
    label, others = F.one_hot(teacher.argmax(1), teacher.shape[1]).float(), teacher.shape[1] - 1
    if label_smoothing:
        label = (1 - label_smoothing) * label + label_smoothing / others * (1 - label)
    return divergence(label.to(student.dtype), student)


def logsoftmax_euclidean(student: Tensor, teacher: Tensor) -> Tensor:
    """`euclidean` of the logarithms of the probabilities."""
    return euclidean(student.log_softmax(1), teacher.log_softmax(1))


def agree(student: Tensor, teacher: Tensor, k: int = 1) -> Tensor:
    """Whether the teacher's likeliest class is among the student's `k` likeliest: 0 or 1. Of equals the first ranks first."""
    return rank(student, teacher.argmax(1)) < k


def divergence(probabilities: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax(logits) from probabilities, both [B, K]."""
    return (probabilities * (probabilities.clamp(min=1e-8).log() - logits.log_softmax(1))).sum(1)


def rank(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of classes of [B, K] before the labelled one, [B]: all but itself, lower ones, and later equals.

    NaN is not lower, so a model that has blown up is right nowhere.
    """
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    return logits.shape[1] - behind.sum(1)


DISTANCES = {
    "kl": kl,
    "euclidean": euclidean,
    "l2": l2,
    "hard": hard,
    "logsoftmax_euclidean": logsoftmax_euclidean,
}
