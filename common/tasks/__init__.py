"""What a model can be trained for: of each task the models of a run, its batches, how it is judged, and its card.

A module of each task has these functions; `plan` is the run's (common/runs/plan.py):

    models(plan)                what a run holds: {"model": Start, "teacher": Start, ...}, of which "model" is trained
    columns(plan, split, train) what a batch holds
    evaluators(plan)            new ones, one for every split that may be evaluated
    card(plan)                  what `evaluate`, `predict` and `export` have to find in card.json

An engine has a function of the task's name in `losses.py`, and what evaluators ask for in `outputs.py`. The numbers of a task
are in common/recipes/task.py.
"""

from common.tasks import captioning, classification, contrastive, distillation

TASKS = {
    "classification": classification,
    "distillation": distillation,
    "contrastive": contrastive,
    "captioning": captioning,
}
