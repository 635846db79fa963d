"""Tuning by rewards: what a model writes of an image becomes likelier where it is better than what else it writes.

Source: "Tuning computer vision models with task rewards" (https://arxiv.org/abs/2302.08242). `rewarded` of an engine's
`losses.py` has the formula.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.data.batches import EvalBatches
from common.data.columns import Column, Stream
from common.data.split import Split
from common.data.written import behind, prompts
from common.evaluation.captioning import scorers
from common.evaluation.evaluator import Evaluator, Rows
from common.evaluation.rewards import Cider, Reward, RewardEvaluator
from common.tasks import captioning
from common.tasks.contrastive import Texts
from common.tasks.seen import image_columns
from common.tasks.start import Start


class Row(NamedTuple):
    """A kind of reward."""

    needs: Callable[[], Any]  # raises UserError where a package is missing that computes it
    task: Any  # the module of common/tasks whose models are tuned, and whose card they keep
    asked: Callable[[Any], tuple[Column, Column]]  # (plan): `prompt` and `end`, as `prompts` makes them
    of: Callable[[Any, Split], Reward]  # (plan, split): of the samples of its examples
    evaluators: Callable[[Any], list[Evaluator]]  # (plan): each measures `reward` of a split


# --- what people wrote


def asked(plan: Any) -> tuple[Column, ...]:
    """What captions begin with, and how they end."""
    return prompts(Texts(plan).tokenizer, captioning.prompt_of(plan))


@functools.lru_cache(maxsize=1)  # of many images it takes long
def weighed(plan: Any) -> Cider:
    """CIDEr-D with words weighed by how many training images' references have them."""
    return Cider(plan.splits["train"].captions)


def cider(plan: Any, split: Split) -> Reward:
    """CIDEr-D of texts of a split's images, by what people wrote of them."""
    judged = weighed(plan)
    decode = behind(Texts(plan).tokenizer, captioning.prompt_of(plan))

    def reward(rows: Rows) -> np.ndarray:
        images, count, length = rows["samples"].shape
        texts = decode(rows["samples"].reshape(-1, length))
        references = [split.captions[number] for number in rows["example"].tolist() for _ in range(count)]
        return judged(zip(texts, references)).reshape(images, count)

    return reward


def written(plan: Any) -> list[Evaluator]:
    """What is written of every split but `train`, rewarded as in training."""
    found, decode = [], behind(Texts(plan).tokenizer, captioning.prompt_of(plan))
    for name, split in plan.splits.items():
        if name != "train" and split.captions is not None:
            seen = *image_columns(plan, train=False), *asked(plan)
            batches = EvalBatches(split, None, plan.recipe.batch_eval, columns=seen)
            kept = (name, len(split)) if name == plan.held_out else None
            found.append(RewardEvaluator(name, batches, decode, split.captions, cider(plan, split), split=kept))
    return found


# --- any reward

REWARDS = {"cider": Row(scorers, captioning, asked, cider, written)}


def row(plan: Any) -> Row:
    """That of the run."""
    return REWARDS[plan.recipe.task.reward]


def models(plan: Any) -> dict[str, Start]:
    """Those of the task that is tuned. Raises UserError for a reward that cannot be computed."""
    row(plan).needs()
    return row(plan).task.models(plan)


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images and their numbers, what texts begin with and how they end, and the numbers that draw the samples of each."""
    first = row(plan).asked(plan)
    shape = (plan.recipe.task.samples, *first[0].shape)
    number = Column("example", (), np.int32, lambda example: np.int32(example.number))
    draws = Column("draws", shape, np.float64, lambda example, draws: draws, (Stream("sample_draws", 12, shape),))
    return (*image_columns(plan, train), number, *first, draws)


def evaluators(plan: Any) -> list[Evaluator]:
    """How much reward what is written of held-out images gets."""
    return row(plan).evaluators(plan)


def judge(plan: Any) -> Callable[[Rows], Rows]:
    """What makes of `samples` of a batch these, which of their tokens count, bool [B, K, L], and their rewards float64 [B, K]."""
    reward = row(plan).of(plan, plan.splits["train"])

    def judged(rows: Rows) -> Rows:
        samples, own = rows["samples"], rows["prompt"][:, None] == 0
        counted = until(samples, rows["end"][:, None, None]) & own
        return {"samples": samples, "counted": counted, "rewards": reward(rows)}

    return judged


def until(tokens: np.ndarray, end: np.ndarray | int) -> np.ndarray:
    """bool, as tokens [..., L]: True up to the first `end`, with it."""
    ends = tokens == end
    return np.cumsum(ends, -1) - ends == 0


def card(plan: Any) -> dict[str, Any]:
    """That of the task that is tuned."""
    return row(plan).task.card(plan)
