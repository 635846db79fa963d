"""The evaluation of classification: top-1, top-5 and loss on a split, and a prediction for each held-out image."""

from pathlib import Path
from typing import Any

import numpy as np

from common.evaluation.evaluator import Means, Rows
from common.evaluation.predictions import PREDICTIONS, Predictions, write_predictions


class ClassificationEvaluator(Means):
    """{top1, top5: fractions, loss: the mean} over the examples that have a class.

    With the `labels` int32 [N] of all examples it also keeps `predictions`, which `write` leaves as a file.
    """

    def __init__(self, name: str, batches: Any, labels: np.ndarray | None = None):
        super().__init__(name, "scores", batches, ("top1", "top5", "loss"))
        self.labels, self.kept = labels, []

    def add(self, output: str, rows: Rows) -> None:
        """Columns [N]: top1 and top5, whether the right class is among so many predicted ones; loss; mask; predicted; probability."""
        super().add(output, rows)
        if self.labels is not None:
            self.kept.append((rows["predicted"].astype(np.int32), rows["probability"].astype(np.float32)))

    @property
    def predictions(self) -> Predictions:
        """The likeliest class of every example, and its probability, without the last batch's padding."""
        predicted, probability = map(np.concatenate, zip(*self.kept))
        count = len(self.labels)
        return Predictions(self.name, self.labels, predicted[:count], probability[:count])

    def write(self, folder: Path) -> None:
        """`predictions.npz`, where predictions are kept."""
        if self.labels is not None:
            write_predictions(folder / PREDICTIONS, self.predictions)
