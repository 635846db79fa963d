"""What is rewarded of texts that a model draws, or of the maps of drawn codes, and how held-out images are judged by it."""

import collections
import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from common.data.captions import Captions
from common.evaluation.captioning import WRITTEN, CaptionEvaluator, in_words, scorers
from common.evaluation.dense import JUDGES
from common.evaluation.evaluator import Rows
from common.evaluation.metrics import row
from common.recipes.task import TARGET_OF

# Of `samples` [N, K, L], and what else is known of each `example` [N], or of maps `map` and `truths`: float64 [N, K].
Reward = Callable[[Rows], np.ndarray]


class Cider:
    """CIDEr-D (https://arxiv.org/abs/1411.5726) of texts one by one: words are weighed by how many of `captions` have them.

    By itself, the package pycocoevalcap weighs by the images that it is given; those of a batch are few, and others in every
    step. Raises UserError where it is missing.
    """

    def __init__(self, captions: Captions):
        scorers()
        module = importlib.import_module("pycocoevalcap.cider.cider_scorer")
        self.cook, self.count, self.frequency = module.precook, len(captions), collections.Counter()
        for texts in captions:
            self.frequency.update({gram for text in texts for gram in self.cook(in_words(text))})
        weight = math.log(self.count)
        # The package sets `ref_len`, the weight of a word that no image has, from the number of images that it is given.
        self.scorer = type("Scorer", (module.CiderScorer,), {"ref_len": property(lambda _: weight, lambda *_: None)})

    def __call__(self, pairs: Iterable[tuple[str, Sequence[str]]]) -> np.ndarray:
        """float64 [M] of (a text, people's texts of its image)."""
        scorer = self.scorer()
        for text, references in pairs:
            scorer += in_words(text), [*map(in_words, references)]
        scorer.document_frequency = self.frequency
        return np.array(scorer.compute_cider(), np.float64)


def of_maps(metric: str, truths: Any) -> Reward:
    """The `metric` of the target's judge of each map alone, and minus it where less is better; 0 where an image tells nothing.

    Columns `map` [N, K, H, W, n] and `truths` [N, H', W', m]: what the judge adds. `truths` names the `categories`.
    """
    judge, sign = JUDGES[TARGET_OF[metric]], -1 if row(metric).better == "lower" else 1

    def one(predicted: np.ndarray, truth: np.ndarray) -> float:
        judged = judge(truths)
        judged.add(predicted, truth)
        return sign * judged.result()[metric] if judged.counts else 0.0

    def reward(rows: Rows) -> np.ndarray:
        return np.array([[one(found, known) for found in own] for own, known in zip(rows["map"], rows["truths"])])

    return reward


class RewardEvaluator(CaptionEvaluator):
    """{reward: its mean over the texts that a model writes, and what CaptionEvaluator measures of them}."""

    def __init__(
        self, name: str, batches: Any, decode: Callable[[np.ndarray], list[str]], references: Captions, reward: Reward, *,
        split: tuple[str, int] | None = None,
    ):  # fmt: skip
        super().__init__(name, batches, decode, references, split=split)
        self.reward = reward

    def result(self) -> dict[str, float]:
        """The means."""
        tokens = self.column(WRITTEN, "tokens")
        rewards = self.reward({"samples": tokens[:, None], "example": np.arange(len(tokens))})
        return {"reward": float(rewards.mean())} | super().result()
