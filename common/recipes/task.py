"""What a model is trained for: the numbers of a task, which are static in every compiled step.

Each engine has one function of a task's name in its `losses.py`.
"""

import dataclasses
from typing import Any, ClassVar

from common.flags import check_choices
from common.recipes.choices import Loss


@dataclasses.dataclass(frozen=True)
class Classification:
    """Each image has one class, or several."""

    name: ClassVar[str] = "classification"  # of the task's flags, and of its loss in every engine
    best: ClassVar[str] = "val/top1"  # the metric that --keep_best and reports judge by
    splits_batches: ClassVar[bool] = True  # whether the mean over parts of a batch is the loss of the whole
    takes_sam: ClassVar[bool] = True  # whether there is one loss, whose gradients show the way uphill
    measures: ClassVar[tuple[str, ...]] = ()  # what a step measures besides its loss

    loss: Loss = "softmax"  # or sigmoid: the sum over the classes of the binary cross-entropies
    label_smoothing: float = 0.0  # part of a label that is spread: over all classes, or in sigmoid towards a half

    def __post_init__(self):
        check_choices(self, "A recipe's {}")


Task = Classification
KINDS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification,)}


def create_task(values: dict[str, Any]) -> Task:
    """The task that `values` call `task`, classification by default, with those of its numbers that are among them."""
    kind = KINDS[values.get("task", Classification.name)]
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values})


def task_record(task: Task) -> dict[str, Any]:
    """The name and numbers of a task, as JSON holds them."""
    return {"name": task.name} | dataclasses.asdict(task)
