"""Tuning by rewards: what a model writes of an image becomes likelier where it is better than what else it writes.

What is written are texts, or codes of which a frozen oracle makes maps. Source: "Tuning computer vision models with task
rewards" (https://arxiv.org/abs/2302.08242). `rewarded` of an engine's `losses.py` has the formula.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from common.data.batches import EvalBatches
from common.data.columns import Column, Stream
from common.data.split import Split
from common.data.targets import Truths, train_truths
from common.data.views import resized_recipe
from common.data.written import behind, prompts
from common.evaluation.captioning import scorers
from common.evaluation.evaluator import Evaluator, Rows
from common.evaluation.rewards import Cider, Reward, RewardEvaluator, of_maps
from common.evaluation.shown import MOST_SHOWN
from common.system.errors import UserError
from common.tasks import captioning, coded
from common.tasks.contrastive import Texts
from common.tasks.seen import image_columns
from common.tasks.start import Start


class Row(NamedTuple):
    """A kind of reward."""

    check: Callable[[Any], Any]  # (plan): raises UserError where it cannot be computed, or flags have no use for it
    task: Any  # the module of common/tasks whose models are tuned, and whose card they keep
    shown: Callable[
        [Any, Split, bool], tuple[Column, ...]
    ]  # (plan, split, train): images, and what else is known of them
    asked: Callable[[Any], tuple[Column, Column]]  # (plan): `prompt` and `end`, as `prompts` makes them
    of: Callable[[Any, Split], Reward]  # (plan, split): of the samples of its examples
    evaluators: Callable[[Any], list[Evaluator]]  # (plan): each measures the reward of a split


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


# --- maps of codes


def check_flags(plan: Any) -> None:
    """Raise UserError for a flag of texts."""
    for flag in ("prompt", "vocabulary"):
        if getattr(plan.config, flag) is not None:
            raise UserError(f"--{flag} is of texts, and --reward {plan.recipe.task.reward} of maps; leave it out.")


def mapped(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """What both models are shown; in training also `truths`, of the same box and flip at the oracle's size."""
    *seen, _ = coded.columns(plan, split, train)
    config = plan.models[coded.ORACLE].config
    view = resized_recipe(plan.recipe, config.image_size[0])
    return *seen, *([train_truths(config.target, view)] if train else ())


def worth(plan: Any, split: Split) -> Reward:
    """A metric of the maps that the oracle makes of codes, each alone."""
    oracle = plan.models[coded.ORACLE]
    return of_maps(plan.recipe.task.reward, Truths(split, oracle.config.target, oracle.preprocessing))


def predicted(plan: Any) -> list[Evaluator]:
    """The maps of the likeliest codes of every split but `train`."""
    return [
        coded.predicting(plan, name, split, shows=MOST_SHOWN if name == plan.held_out else 0)
        for name, split in plan.splits.items()
        if name != "train"
    ]


# --- any reward

OF_MAPS = Row(check_flags, coded, mapped, lambda plan: coded.codes(plan.models[coded.ORACLE].config), worth, predicted)
REWARDS = {
    "cider": Row(
        lambda plan: scorers(), captioning, lambda plan, split, train: image_columns(plan, train), asked, cider, written
    ),
    "psnr": OF_MAPS,
    "rmse": OF_MAPS,
    "pq": OF_MAPS,
}


def row(plan: Any) -> Row:
    """That of the run."""
    return REWARDS[plan.recipe.task.reward]


def models(plan: Any) -> dict[str, Start]:
    """Those of the task that is tuned. Raises UserError for a reward that cannot be computed."""
    row(plan).check(plan)
    return row(plan).task.models(plan)


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """What is shown, the examples' numbers, what is written begins with and how it ends, and the numbers that draw the samples of each."""
    first = row(plan).asked(plan)
    shape = (plan.recipe.task.samples, *first[0].shape)
    number = Column("example", (), np.int32, lambda example: np.int32(example.number))
    draws = Column("draws", shape, np.float64, lambda example, draws: draws, (Stream("sample_draws", 12, shape),))
    return (*row(plan).shown(plan, split, train), number, *first, draws)


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
