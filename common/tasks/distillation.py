"""Distillation: a student of classification gives the answers of frozen teachers."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from common import weights
from common.data.columns import Column, eval_images, train_images
from common.data.split import Split
from common.data.views import resized_recipe
from common.evaluation.distillation import DistillationEvaluator
from common.evaluation.evaluator import Evaluator
from common.models import find_model
from common.models.cards import Preprocessing
from common.system import remote
from common.system.errors import UserError
from common.tasks import classification
from common.tasks.start import Start
from common.weights.source import read_model

card = classification.card  # what is left is a classifier, which needs no teacher


def models(plan: Any) -> dict[str, Start]:
    """The student, as in classification, and every teacher, as it lies in its file."""
    starts = classification.models(plan)
    for name, given in plan.recipe.task.named.items():
        starts[name] = teacher(plan, given, starts["model"].preprocessing)
    return starts


def teacher(plan: Any, given: str, student: Preprocessing) -> Start:
    """The frozen model that a --teacher names, with its own way to see images; the plan's notes tell what it sees.

    Raises UserError where there is none, and for one of other classes than the images.
    """
    row, path = find_teacher(given, plan.config.bit_pretrained_dir)
    source = read_model(path)
    facts = source.card.over(row.card) if row else source.card
    check_classes(given, source.config.num_classes, facts.class_names, plan.dataset)
    own = facts.preprocessing
    size = getattr(source.config, "image_size", None)
    resolution = size[0] if size else own.resolution
    if resolution is None:  # nothing tells: it is shown what the student is
        own = dataclasses.replace(student, mean=own.mean, std=own.std)
    else:
        own = dataclasses.replace(own.at(resolution), exif=plan.config.exif)
    plan.notes.extend((*source.notes, told(given, own, plan.recipe, student)))
    return Start(source.config, source.arrays, facts, own, frozen=True, digest=digest(path))


def find_teacher(given: str, folder: str) -> tuple[Any, Path]:
    """(the manifest's row or None, the file) of a published name, a file or the folder of a run. Raises UserError."""
    if remote.is_remote(given) or Path(given).exists():
        return None, weights.choose_file(None, given)
    try:
        row = find_model(given)
    except UserError as error:
        if Path(given).suffix or len(Path(given).parts) > 2:
            raise UserError(
                f"The --teacher {given} is missing; name a weights file, the folder of a run, or a published model."
            ) from error
        raise UserError(f"The --teacher is no file: {error}") from error
    return row, weights.find_file(row, folder, flag="--teacher")


def digest(path: Path) -> str:
    """`SHA-256 ...` of a file, or of all files of which `path` is the index."""
    beside = {".json": "*.safetensors", ".index": f"{path.stem}.data-*"}.get(path.suffix)
    hashed = hashlib.sha256()
    for file in (path, *(sorted(path.parent.glob(beside)) if beside else ())):
        with open(file, "rb") as whole:
            hashlib.file_digest(whole, lambda: hashed)
    return f"SHA-256 {hashed.hexdigest()}"


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
            found += training_view(plan.recipe, seen, f"{name}_images")
        elif pixels(seen) != pixels(plan.preprocessing):
            found.append(eval_images(seen, f"{name}_images"))
    return tuple(found)


def training_view(recipe: Any, seen: Preprocessing, name: str) -> list[Column]:
    """A teacher's own column of a training batch; none where it sees the student's pixels."""
    view = recipe.task.teacher_view
    if view == "fixed":
        return [eval_images(seen, name)]
    if seen.resolution == recipe.crop:
        return [] if view == "same" else [train_images(recipe, name, own_view=True)]
    return [train_images(resized_recipe(recipe, seen.resolution, seen.resize_kind), name, own_view=view == "own")]


def pixels(seen: Preprocessing) -> Preprocessing:
    """What decides the pixels that a model is shown, whatever their scaling."""
    return dataclasses.replace(seen, mean=Preprocessing().mean, std=Preprocessing().std)


def evaluators(plan: Any) -> list[Evaluator]:
    """Those of classification, which also compare the student with its teachers."""
    return classification.evaluators(plan, DistillationEvaluator)
