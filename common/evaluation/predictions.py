"""`predictions.npz`: the predicted class of every image of the held-out split, its confusion matrix and mistakes."""

import dataclasses
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from common.system.errors import UserError, reason
from common.system.files import open_regular, write_atomically
from common.weights.containers import npz

PREDICTIONS = "predictions.npz"
MOST_CLASSES = 2**20  # the largest number of classes that is counted to, where it is unknown


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of every image of a split, each of which has one class."""

    split: str
    labels: np.ndarray  # int32 [N]
    predicted: np.ndarray  # int32 [N]
    probability: np.ndarray  # float32 [N], of the predicted class

    @property
    def num_right(self) -> int:
        """The number of images with the right prediction."""
        return int((self.predicted == self.labels).sum())

    def mistakes(self, count: int) -> np.ndarray:
        """The numbers of at most `count` images with a wrong prediction, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.probability[wrong], kind="stable")][:count]

    def confusion(self, num_classes: int) -> np.ndarray:
        """int64 [K, K]: the number of images of class i that were predicted as class j."""
        pairs = self.labels.astype(np.int64) * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)

    def confused_pairs(self, count: int) -> list[tuple[int, int, int]]:
        """At most `count` (class, class it was taken for, images), the most frequent first; memory grows with images."""
        wrong = self.predicted != self.labels
        pairs = np.stack([self.labels[wrong], self.predicted[wrong]], 1)
        pairs, images = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-images, kind="stable")[:count]
        return [(*map(int, pairs[i]), int(images[i])) for i in order]

    def per_class(self, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """(images that were seen right [K], images [K])."""
        right = self.labels[self.predicted == self.labels]
        return np.bincount(right, minlength=num_classes), np.bincount(self.labels, minlength=num_classes)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions atomically. Raises UserError where they cannot be written."""
    arrays = {name: getattr(predictions, name) for name in ("labels", "predicted", "probability")}
    arrays = {f"{predictions.split}/{name}": np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(path, lambda file: npz.fill(file, arrays))


def read_predictions(path: Path, num_classes: int = MOST_CLASSES) -> Predictions:
    """Read what `write_predictions` wrote, of a model of `num_classes`. UserError for any other file."""
    try:
        with open_regular(path) as whole:
            size = os.fstat(whole.fileno()).st_size
        with npz.Npz(path) as file:
            file.check_bytes()
            if sum(array.nbytes for array in file.declared.values()) > size:  # they are stored as they are
                raise ValueError(f"more than its {size:,} bytes when unpacked")
            arrays = {name.rpartition("/")[2]: file.get(name) for name in file.declared}
            split = next(iter(file.declared)).rpartition("/")[0]
        found = Predictions(split, **arrays)
        shapes = {array.shape for array in arrays.values()}
        kinds = found.labels.dtype.kind + found.predicted.dtype.kind + found.probability.dtype.kind
        if len(shapes) > 1 or found.labels.ndim != 1 or kinds != "iif":
            raise ValueError(f"arrays of the shapes {sorted(shapes)} and kinds {kinds}")
        if not (len(found.labels) and min(found.labels.min(), found.predicted.min()) >= 0):
            raise ValueError("no image, or a class below 0")
        if (last := max(found.labels.max(), found.predicted.max())) >= num_classes:
            raise ValueError(f"class {last}, where the model tells {num_classes:,} apart, from 0 on")
        if not ((found.probability >= 0) & (found.probability <= 1)).all():
            raise ValueError("a probability outside of 0 to 1")
    except (OSError, KeyError, ValueError, TypeError, StopIteration, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} holds no predictions ({reason(error)}); remove it, or repeat the run's end."
        ) from error
    return found
