"""Distillation: a student of classification gives the answers of frozen teachers."""

import dataclasses
from typing import Any

from common.data.columns import Column, eval_images
from common.data.split import Split
from common.evaluation.distillation import DistillationEvaluator
from common.evaluation.evaluator import Evaluator
from common.models.cards import Preprocessing
from common.system.errors import UserError
from common.tasks import classification
from common.tasks.frozen import read_frozen, training_view
from common.tasks.start import Start

card = classification.card  # what is left is a classifier, which needs no teacher


def models(plan: Any) -> dict[str, Start]:
    """The student, as in classification, and every teacher, as it lies in its file."""
    starts = classification.models(plan)
    for name, given in plan.recipe.task.named.items():
        starts[name] = teacher(plan, given, starts["model"].preprocessing)
    return starts


def teacher(plan: Any, given: str, student: Preprocessing) -> Start:
    """The frozen model that a --teacher names; the plan's notes tell what it sees.

    Raises UserError where there is none, and for one of other classes than the images.
    """
    found = read_frozen(plan, given, "--teacher", student)
    check_classes(given, found.config.num_classes, found.card.class_names, plan.dataset)
    plan.notes.append(told(given, found.preprocessing, plan.recipe, student))
    return found


def check_classes(given: str, num_classes: int | None, known: tuple[str, ...] | None, dataset: Any) -> None:
    """Raise UserError for a teacher of other classes than the dataset's, or of the same in another order."""
    if num_classes != dataset.num_classes:
        raise UserError(
            f"The teacher {given} tells {num_classes or 'no'} classes apart and {dataset.name} has {dataset.num_classes}; "
            "choose a teacher that was trained on these classes."
        )
    if known and known != dataset.class_names and set(known) & set(dataset.class_names):
        place = next(i for i, names in enumerate(zip(known, dataset.class_names)) if names[0] != names[1])
        raise UserError(
            f"Class {place} of the teacher {given} is {known[place]!r} and that of {dataset.name} is "
            f"{dataset.class_names[place]!r}; choose a teacher that was trained on these classes, in this order."
        )


def told(given: str, own: Preprocessing, recipe: Any, student: Preprocessing) -> str:
    """What a teacher and the student see, in words."""
    views = {
        "same": "the student's pixels"
        if own.resolution == recipe.crop
        else f"the student's boxes at {own.resolution} px",
        "own": f"boxes of its own at {own.resolution} px",
        "fixed": f"what it sees in evaluation, {in_words(own)}",
    }
    scaled = "" if (own.mean, own.std) == (student.mean, student.std) else ", scaled its own way"
    return (
        f"The teacher {given} sees {views[recipe.task.teacher_view]}{scaled}; in evaluation {in_words(own)}, and the student "
        f"{in_words(student)}."
    )


def in_words(seen: Preprocessing) -> str:
    """What a model sees of a photograph."""
    middle = f"the middle of the smaller side's {seen.eval_resize} px" if seen.eval_resize else "all of it"
    return f"{middle} at {seen.resolution} px ({seen.resize_kind})"


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """The student's images and labels, and of each teacher that sees other pixels its own images, `teacher_images`."""
    found = [*classification.columns(plan, split, train)]
    for name in plan.recipe.task.named:
        seen = plan.models[name].preprocessing
        if train:
            found += training_view(plan.recipe, seen, f"{name}_images", plan.recipe.task.teacher_view)
        elif pixels(seen) != pixels(plan.preprocessing):
            found.append(eval_images(seen, f"{name}_images"))
    return tuple(found)


def pixels(seen: Preprocessing) -> Preprocessing:
    """What decides the pixels that a model is shown, whatever their scaling."""
    return dataclasses.replace(seen, mean=Preprocessing().mean, std=Preprocessing().std)


def evaluators(plan: Any) -> list[Evaluator]:
    """Those of classification, which also compare the student with its teachers."""
    return classification.evaluators(plan, DistillationEvaluator)
