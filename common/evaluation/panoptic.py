"""Panoptic quality (https://arxiv.org/abs/1801.00868), as COCO's panopticapi counts it."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

INSTANCES = 2**20  # more than an image has


class PanopticQuality:
    """{pq, sq, rq, pq_things, pq_stuff} of predicted segments: PQ = the sum of IoUs of matches / (TP + FP / 2 + FN / 2).

    A segment is all pixels of one category and one instance. Two segments of one category match where their IoU is above
    a half, without the pixels of which nothing is known. A predicted category that is not among them is nothing. Crowds are matched with nothing, and a prediction that lies by more
    than a half in crowds of its category and in what is not known is let be. SQ is the mean IoU of matches, RQ is
    TP / (TP + FP / 2 + FN / 2); all are means over the categories that occur. Source: `pq_compute_single_core` and
    `pq_average` of `panopticapi/evaluation.py` of cocodataset/panopticapi.
    """

    def __init__(self, things: Sequence[bool]):
        """`things`: of each category, from 1 on, whether it is countable."""
        self.things = np.array([False, *things])
        self.found, self.false, self.missed, self.overlap = np.zeros((4, len(things) + 1))

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """One image: category and instance int [H, W, 2], where category 0 is nothing; the truth int [H, W, 3], with crowds."""
        guess, known = (self._segments(part) for part in (predicted, truth))
        crowds = set(np.unique(known[truth[..., 2] > 0]).tolist()) - {0}
        shared = self._shared(known, guess)
        known_area, guess_area = Counter(), Counter()
        for (own, other), count in shared.items():
            known_area[own] += count
            guess_area[other] += count
        matched = set()
        for (own, other), count in shared.items():
            if not own or not other or own in crowds or own // INSTANCES != other // INSTANCES:
                continue
            iou = count / (guess_area[other] + known_area[own] - count - shared.get((0, other), 0))
            if iou > 0.5:
                self.found[own // INSTANCES] += 1
                self.overlap[own // INSTANCES] += iou
                matched |= {("known", own), ("guess", other)}
        for own in known_area:
            if own and own not in crowds and ("known", own) not in matched:
                self.missed[own // INSTANCES] += 1
        for other, area in guess_area.items():
            if other and ("guess", other) not in matched:
                ignored = shared.get((0, other), 0) + self._in_crowd(other, crowds, shared)
                self.false[other // INSTANCES] += ignored / area <= 0.5

    def _segments(self, found: np.ndarray) -> np.ndarray:
        """int64 [H, W]: a number for each segment, from which its category follows; 0: nothing."""
        category, instance = found[..., 0].astype(np.int64), found[..., 1].astype(np.int64)
        return np.where((category > 0) & (category < len(self.things)), category * INSTANCES + instance, 0)

    @staticmethod
    def _shared(known: np.ndarray, guess: np.ndarray) -> dict[tuple[int, int], int]:
        """{(a segment of `known`, one of `guess`): the pixels that both have}."""
        (own, rows), (other, columns) = (np.unique(found, return_inverse=True) for found in (known, guess))
        counts = np.bincount((rows * len(other) + columns).ravel(), minlength=len(own) * len(other))
        pairs = ((own[i // len(other)], other[i % len(other)], counts[i]) for i in np.flatnonzero(counts))
        return {(int(one), int(two)): int(count) for one, two, count in pairs}

    @staticmethod
    def _in_crowd(other: int, crowds: set[int], shared: dict[tuple[int, int], int]) -> int:
        """Pixels of a prediction in the crowd of its category: of several, the last one, as in the source."""
        own = [crowd for crowd in sorted(crowds) if crowd // INSTANCES == other // INSTANCES]
        return shared.get((own[-1], other), 0) if own else 0

    @property
    def total(self) -> np.ndarray:
        """[categories + 1]: TP + FP / 2 + FN / 2."""
        return self.found + (self.false + self.missed) / 2

    def result(self) -> dict[str, float]:
        """The means over categories that occur, of all, of things, and of stuff; those of none are left out."""
        total = self.total
        with np.errstate(invalid="ignore"):
            pq, rq = self.overlap / total, self.found / total
        sq = self.overlap / np.maximum(self.found, 1)
        occurs = total > 0
        of = {"pq": (pq, occurs), "sq": (sq, occurs), "rq": (rq, occurs)}
        of |= {"pq_things": (pq, occurs & self.things), "pq_stuff": (pq, occurs & ~self.things)}
        return {name: float(values[chosen].mean()) for name, (values, chosen) in of.items() if chosen.any()}
