"""How good predictions of every pixel are: colours, depths, categories and instances.

Not built: the FID of ColTran (`evaluators/proj/uvim/coltran_fid.py` of google-research/big_vision), which needs the weights of an
Inception network.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.images import resize
from common.data.split import evenly
from common.data.targets import TARGETS
from common.evaluation.evaluator import Rows
from common.evaluation.panoptic import PanopticQuality
from common.evaluation.shown import Shown, write_shown
from common.recipes.choices import Target
from common.system.errors import UserError

MOST_BYTES = 2**28  # of the predictions that are on the device at once
NEAREST, FARTHEST = 1e-3, 10.0  # metres: depths between are judged
SMALLEST_ERROR = 1e-12  # mean square of colours: a smaller one is rounding, and its PSNR of 126 dB the largest


class Colours:
    """{psnr: the mean over images of 20 log10 2 - 10 log10 of the mean square error in dB, mse: the mean of these}, of colours in [-1, 1].

    Source: `evaluators/proj/uvim/psnr.py` of google-research/big_vision.
    """

    def __init__(self, truths: Any):
        self.errors = []

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """A prediction [H, W, 3] in [-1, 1], and the colours uint8 [H, W, 3] themselves."""
        self.errors.append(np.mean(np.square(predicted.astype(np.float64) - (truth / 127.5 - 1))))

    @property
    def counts(self) -> bool:
        """Whether an image was judged that counts."""
        return bool(self.errors)

    def result(self) -> dict[str, float]:
        """The means over images."""
        errors = np.array(self.errors)
        psnr = 20 * np.log10(2) - 10 * np.log10(np.maximum(errors, SMALLEST_ERROR))
        return {"psnr": float(psnr.mean()), "mse": float(errors.mean())}


class Depths:
    """{rmse, abs_rel, log10, delta1, delta2, delta3}: means over images of errors over pixels from 1 mm to 10 m away.

    A prediction is resized to its truth by taking the nearest pixel. Source: `evaluators/proj/uvim/nyu_depth.py` of
    google-research/big_vision. Images without such a pixel do not count.
    """

    def __init__(self, truths: Any):
        self.rows = []

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """A prediction [H, W, 1] and the truth float32 [H', W', 1] in metres."""
        valid = (truth > NEAREST) & (truth < FARTHEST)
        if not valid.any():
            return
        found = resize(predicted, *truth.shape[:2], "nearest")[valid].astype(np.float64)
        known = truth[valid].astype(np.float64)
        ratio = np.maximum(known / found, found / known)
        row = {
            "rmse": np.sqrt(np.mean((known - found) ** 2)),
            "abs_rel": np.mean(np.abs(known - found) / known),
            "log10": np.mean(np.abs(np.log10(known) - np.log10(found))),
        }
        self.rows.append(row | {f"delta{order}": np.mean(ratio < 1.25**order) for order in (1, 2, 3)})

    @property
    def counts(self) -> bool:
        """Whether an image was judged that counts."""
        return bool(self.rows)

    def result(self) -> dict[str, float]:
        """The means over images. Raises UserError where no pixel was measured."""
        if not self.rows:
            raise UserError("No pixel of the images to evaluate has a depth from 1 mm to 10 m; choose another split.")
        return {name: float(np.mean([row[name] for row in self.rows])) for name in self.rows[0]}


class Segmentations:
    """{pq, sq, rq, pq_things, pq_stuff}: panoptic quality. A prediction is resized to its truth by taking the nearest pixel.

    Source: `evaluators/proj/uvim/coco_panoptic.py` of google-research/big_vision.
    """

    def __init__(self, truths: Any):
        self.quality = PanopticQuality([one.is_thing for one in truths.categories])

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """A prediction int [H, W, 2], category and instance, and the truth int32 [H', W', 3], which also tells crowds."""
        self.quality.add(resize(predicted, *truth.shape[:2], "nearest"), truth)

    @property
    def counts(self) -> bool:
        """Whether an image was judged that has a category, or was given one falsely."""
        return bool(self.quality.total.any())

    def result(self) -> dict[str, float]:
        """The means over categories. Raises UserError where none occurs."""
        if not self.counts:
            raise UserError("Nothing is known of a pixel of the images to evaluate; choose another split.")
        return self.quality.result()


JUDGES: dict[Target, Any] = {"colorization": Colours, "depth": Depths, "panoptic": Segmentations}


def check_known(truths: Any, name: str) -> None:
    """Raise UserError where no prediction for the images of `truths`, which are called `name`, can be judged."""
    judge, channels = JUDGES[truths.target](truths), TARGETS[truths.target].channels
    for i in range(len(truths)):
        judge.add(truths[i][..., :channels], truths[i])
        if judge.counts:
            return
    raise UserError(
        f"No map of the {name} images has a pixel by which {truths.target} is judged; add some, or other images."
    )


class MapEvaluator:
    """The metrics of a target's judge, of predictions for the images of `truths`, a sequence of what they are judged by.

    `truths` also has a `target`, `image(i)`, and of a panoptic segmentation `categories`: see `Truths` of common/data/targets.py.
    `write` leaves pictures of `shows` images, evenly apart.
    """

    def __init__(self, name: str, batches: Any, truths: Any, *, shows: int = 0):
        self.name, self.batches, self.truths, self.shows = name, batches, truths, {*evenly(len(truths), shows).tolist()}
        self.judge, self.count, self.shown = JUDGES[truths.target](truths), 0, []

    def passes(self) -> Iterator[tuple[str, Any]]:
        """One for every so many images, whose predictions fit into memory."""
        yield from (("maps", part) for part in in_parts(self.batches))

    def add(self, output: str, rows: Rows) -> None:
        """Column `map` [N, H, W, C]: what is predicted of images in their order."""
        for predicted in rows["map"][rows["mask"]]:
            truth = self.truths[self.count]
            self.judge.add(predicted, truth)
            if self.count in self.shows:
                self.shown.append(Shown(self.count, self.truths.image(self.count), truth, predicted))
            self.count += 1

    def result(self) -> dict[str, float]:
        """The metrics of all rows that were added."""
        return self.judge.result()

    def write(self, folder: Path) -> None:
        """`maps.png`, where some are to be shown."""
        write_shown(folder, self.truths.target, self.shown)


def in_parts(batches: Any, most_bytes: int | None = None) -> Sequence[Any]:
    """The same batches, so many at a time that predictions as large as their images in float32 take `most_bytes`, or MOST_BYTES."""
    whole, most_bytes = len(batches) and len(batches) * batches.batch_bytes * 4, most_bytes or MOST_BYTES
    return batches.parts(max(1, len(batches) * most_bytes // whole)) if whole > most_bytes else [batches]
