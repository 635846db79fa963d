"""Zero-shot classification: an image belongs to the class whose prompts it is most similar to.

Source: `evaluators/proj/image_text/discriminative_classifier.py` of google-research/big_vision.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.data.split import MultiLabels
from common.evaluation.embeddings import TILE, Embeddings, pieces, similarities
from common.evaluation.metrics import METRICS
from common.evaluation.predictions import PREDICTIONS, Predictions, write_predictions
from common.system.errors import UserError


class ZeroShotEvaluator(Embeddings):
    """{top1, of six classes and more top5: fractions of the images that have one}. Of several classes of one image, any will do.

    `labels` are those of all images, int32 [N] or MultiLabels, and `classes` int32 [P] the class of every prompt, in
    order. Of equally similar classes the first is taken. With `keeps` it leaves `predictions.npz`.
    """

    def __init__(
        self, name: str, images: Any, labels: np.ndarray | MultiLabels, prompts: Any, classes: np.ndarray, *,
        keeps: bool = False,
    ):  # fmt: skip
        super().__init__(name, images, prompts)
        self.labels, self.classes, self.keeps = labels, classes, keeps

    def result(self) -> dict[str, float]:
        """The means. Raises UserError where no image has a class."""
        classes, images = self.class_embeddings, self.column("image_embeddings")
        places = [place_of_own(scores, self.labels[rows]) for rows, scores in self.scores(images, classes)]
        return tops(np.concatenate(places), len(classes))

    @property
    def class_embeddings(self) -> np.ndarray:
        """float64 [K, E]: of each class."""
        return mean_of_each(self.column("text_embeddings"), self.classes)

    @staticmethod
    def scores(images: np.ndarray, classes: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, similarities [R, K]) of all images, some at a time."""
        for rows in pieces(len(images), max(1, TILE // len(classes))):
            yield rows, similarities(images[rows], classes)

    @property
    def predictions(self) -> Predictions:
        """The most similar class of every image, and its probability: the softmax of the scaled similarities."""
        images, scale = self.column("image_embeddings"), self.column("image_embeddings", "scale")
        predicted, probability = [], []
        for rows, scores in self.scores(images, self.class_embeddings):
            scaled = scale[rows, None] * (scores - scores.max(1, keepdims=True))
            predicted.append(scores.argmax(1).astype(np.int32))
            probability.append((1 / np.exp(scaled).sum(1)).astype(np.float32))
        return Predictions(self.name, self.labels, np.concatenate(predicted), np.concatenate(probability))

    def outputs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(embeddings [R, E], logits [R, K] for the classes) of all images, some at a time."""
        images = self.column("image_embeddings")
        scale, bias = (self.column("image_embeddings", name)[:, None] for name in ("scale", "bias"))
        for rows, scores in self.scores(images, self.class_embeddings):
            yield images[rows], (scale[rows] * scores + bias[rows]).astype(images.dtype)

    def write(self, folder: Path) -> None:
        """`predictions.npz`, where predictions are kept."""
        if self.keeps:
            write_predictions(folder / PREDICTIONS, self.predictions)


def mean_of_each(embeddings: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float64 [K, E]: the mean of the embeddings [P, E] of each class, made as long as 1; `classes` [P] ascend."""
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    sums = np.add.reduceat(embeddings, starts, axis=0, dtype=np.float64)
    means = sums / np.diff(starts, append=len(classes))[:, None]
    return means / (1e-8 + np.linalg.norm(means, axis=1, keepdims=True))


def tops(place: np.ndarray, num_classes: int) -> dict[str, float]:
    """{top1, of six classes and more top5} of places [N], as of `place_of_own`. Raises UserError where no image has a class."""
    place = place[np.isfinite(place)]
    if not len(place):
        raise UserError("None of the images to evaluate has a label; give some of them labels or choose another split.")
    top = {"top1": float((place < 1).mean()), "top5": float((place < 5).mean())}
    return {name: value for name, value in top.items() if num_classes >= METRICS[name].least_classes}


def place_of_own(scores: np.ndarray, labels: np.ndarray | MultiLabels) -> np.ndarray:
    """[B] how many classes of scores [B, K] come before the labelled one; infinite for an image without a class.

    Of several labelled ones the first counts. NaN is not lower than a score, so a model that has blown up is right nowhere.
    """
    labelled = np.ones(len(scores), bool)
    if isinstance(labels, MultiLabels):
        hot = labels.multi_hot() > 0
        labelled, labels = hot.any(1), np.where(hot, scores, -np.inf).argmax(1)
    own = np.take_along_axis(scores, labels[:, None], 1)
    behind = (scores < own) | ((scores == own) & (np.arange(scores.shape[1]) >= labels[:, None]))
    return np.where(labelled, scores.shape[1] - behind.sum(1), np.inf)
