"""What a model can be trained for: of each task the models of a run, its batches, how it is judged, and its card.

A module of each task has these functions; `plan` is the run's (common/runs/plan.py):

    models(plan)                what a run holds: {"model": Start, "teacher": Start, ...}, of which "model" is trained
    columns(plan, split, train) what a batch holds
    evaluators(plan)            new ones, one for every split that may be evaluated
    card(plan)                  what `evaluate`, `predict` and `export` have to find in card.json
    judge(plan)                 where the task asks the model before a step: what makes further arrays of a batch of the answers

An engine has a function of the task's name in `losses.py`, and what evaluators ask for in `outputs.py`. The numbers of a task
are in common/recipes/task.py.
"""

from collections.abc import Collection
from typing import Any

from common.evaluation.captioning import WRITTEN
from common.system.errors import UserError
from common.tasks import captioning, classification, coded, contrastive, dense, distillation, rewarded

TASKS: dict[str, Any] = {
    "classification": classification,
    "distillation": distillation,
    "contrastive": contrastive,
    "captioning": captioning,
    "dense": dense,
    "rewarded": rewarded,
    "coded": coded,
}


# Evaluator -> the flag that asks for it: what takes long, and is done at the end alone unless its period is given.
FURTHER = {WRITTEN: "captions_of", coded.MAPS: "maps_of"}


def further(config: Any, periods: Collection[str]) -> tuple[str, ...]:
    """The names of the evaluators that flags ask for, besides those of splits. UserError for `periods` of others."""
    for name, flag in FURTHER.items():
        if name in periods and not getattr(config, flag):
            raise UserError(f"--eval_every names {name}, for which --{flag} says of how many images; give that, too.")
    return *contrastive.zero_shot_sets(config), *(name for name, flag in FURTHER.items() if getattr(config, flag))
