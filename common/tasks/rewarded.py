"""Tuning by rewards: what a model writes of an image becomes likelier where it is better than what else it writes.

Source: "Tuning computer vision models with task rewards" (https://arxiv.org/abs/2302.08242). `rewarded` of an engine's
`losses.py` has the formula.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.data.batches import EvalBatches
from common.data.columns import Column, Stream
from common.data.split import Split
from common.data.written import behind, prompts, tokens_of
from common.evaluation.captioning import scorers
from common.evaluation.evaluator import Evaluator, Rows
from common.evaluation.rewards import Cider, Reward, RewardEvaluator
from common.tasks import captioning
from common.tasks.contrastive import Texts
from common.tasks.seen import image_columns
from common.tasks.start import Start


def cider(plan: Any, split: Split) -> Reward:
    """CIDEr-D of texts of a split's images, words weighed by how many training images' references have them."""
    judged = Cider(plan.splits["train"].captions)
    decode = behind(Texts(plan).tokenizer, captioning.prompt_of(plan))

    def reward(examples: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        texts = decode(tokens.reshape(-1, tokens.shape[2]))
        references = [split.captions[number] for number in examples.tolist() for _ in range(tokens.shape[1])]
        return judged(zip(texts, references)).reshape(tokens.shape[:2])

    return reward


def written(plan: Any) -> list[Evaluator]:
    """What is written of every split but `train`, rewarded as in training."""
    found, tokenizer, prompt = [], Texts(plan).tokenizer, captioning.prompt_of(plan)
    for name, split in plan.splits.items():
        if name != "train" and split.captions is not None:
            seen = *image_columns(plan, train=False), *prompts(tokenizer, prompt)
            batches = EvalBatches(split, None, plan.recipe.batch_eval, columns=seen)
            kept = (name, len(split)) if name == plan.held_out else None
            reward = reward_of(plan, split)
            found.append(RewardEvaluator(name, batches, behind(tokenizer, prompt), split.captions, reward, split=kept))
    return found


class Row(NamedTuple):
    """A kind of reward."""

    task: Any  # the module of common/tasks whose models are tuned, and whose card they keep
    of: Callable[[Any, Split], Reward]  # (plan, split): of the samples of its examples
    evaluators: Callable[[Any], list[Evaluator]]  # (plan): each measures `reward` of a split


REWARDS = {"cider": Row(captioning, cider, written)}


def row(plan: Any) -> Row:
    """That of the run."""
    return REWARDS[plan.recipe.task.reward]


def reward_of(plan: Any, split: Split) -> Reward:
    """The run's reward."""
    return row(plan).of(plan, split)


def models(plan: Any) -> dict[str, Start]:
    """Those of the task that is tuned. Raises UserError where the package is missing that computes the reward."""
    scorers()
    return row(plan).task.models(plan)


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images and their numbers, what texts begin with and how they end, and the numbers that draw the samples of each."""
    first = prompts(Texts(plan).tokenizer, captioning.prompt_of(plan))
    shape = (plan.recipe.task.samples, *first[0].shape)
    number = Column("example", (), np.int32, lambda example: np.int32(example.number))
    draws = Column("draws", shape, np.float64, lambda example, draws: draws, (Stream("sample_draws", 12, shape),))
    return (*image_columns(plan, train), number, *first, draws)


def evaluators(plan: Any) -> list[Evaluator]:
    """How much reward what is written of held-out images gets."""
    return row(plan).evaluators(plan)


def judge(plan: Any) -> Callable[[Rows], Rows]:
    """What a step needs of `samples` [B, K, L] of each `example` [B]: these, which of their tokens count, their rewards [B, K]."""
    reward, tokenizer = reward_of(plan, plan.splits["train"]), Texts(plan).tokenizer
    own = tokens_of(tokenizer, captioning.prompt_of(plan)) == 0  # places that are not given

    def judged(rows: Rows) -> Rows:
        samples = rows["samples"]
        rewards = reward(rows["example"], samples)
        return {"samples": samples, "counted": until(samples, tokenizer.end) & own, "rewards": rewards}

    return judged


def until(tokens: np.ndarray, end: int) -> np.ndarray:
    """bool, as tokens [..., L]: True up to the first `end`, with it."""
    ends = tokens == end
    return np.cumsum(ends, -1) - ends == 0


def card(plan: Any) -> dict[str, Any]:
    """That of the task that is tuned."""
    return row(plan).task.card(plan)
