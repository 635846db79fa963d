"""How a student is judged: as any classifier, and by what its teachers say of the same images."""

from typing import Any

import numpy as np

from common.evaluation.classification import ClassificationEvaluator

MATCHES = ("agreement", "kl", "teacher_top1")  # each the mean over the teachers


class DistillationEvaluator(ClassificationEvaluator):
    """{top1, top5, loss} of the student and {agreement, kl, teacher_top1}, over the examples that have a class.

    `agreement`: in how many examples the likeliest classes of student and teacher are the same, a fraction; `kl`: the
    Kullback-Leibler divergence of the student's probabilities from the teacher's, at temperature 1, in nats.
    """

    def __init__(self, name: str, batches: Any, labels: np.ndarray | None = None):
        super().__init__(name, batches, labels)
        self.output = "matches"
        self.sums |= dict.fromkeys(MATCHES, 0.0)
