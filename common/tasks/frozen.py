"""Frozen models beside the one that is trained: where they are found, how they see images, and what tells that they stay the same."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import weights
from common.data.columns import Column, eval_images, train_images
from common.data.views import resized_recipe
from common.models import find_model
from common.models.cards import Card, Preprocessing
from common.models.family import Config
from common.recipes.choices import TeacherView
from common.recipes.recipe import Recipe
from common.system import remote
from common.system.errors import UserError
from common.tasks.start import Start
from common.weights.source import read_model


def read_frozen(plan: Any, given: str, flag: str, student: Preprocessing) -> Start:
    """The model that `given`, the value of `flag`, names, as it lies in its file, with its own way to see images.

    Raises UserError where there is none.
    """
    row, path = find_frozen(given, plan.config.bit_pretrained_dir, flag)
    source = read_model(path)
    plan.notes.extend(source.notes)
    facts = source.card.over(row.card) if row else source.card
    own = seeing(source.config, facts, student, plan.config.exif)
    return Start(source.config, source.arrays, facts, own, frozen=True, digest=digest(path))


def replaced(before: dict[str, str], now: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, digest before, digest now) of every frozen model that a run had, too, and that is no longer the same file."""
    return ((name, before[name], own) for name, own in now.items() if before.get(name, own) != own)


def find_frozen(given: str, folder: str, flag: str) -> tuple[Any, Path]:
    """(the manifest's row or None, the file) of a published name, a file or the folder of a run. Raises UserError."""
    if remote.is_remote(given) or Path(given).exists():
        return None, weights.choose_file(None, given)
    try:
        row = find_model(given)
    except UserError as error:
        if Path(given).suffix or len(Path(given).parts) > 2:
            raise UserError(
                f"The {flag} {given} is missing; name a weights file, the folder of a run, or a published model."
            ) from error
        raise UserError(f"The {flag} is no file and no folder of a run: {error}") from error
    return row, weights.find_file(row, folder, flag=flag)


def seeing(config: Config, facts: Card, student: Preprocessing, exif: str) -> Preprocessing:
    """How a frozen model sees images: at its own size, or where nothing tells one, as the `student`, in its own scale.

    Raises UserError for a NaFlex.
    """
    if config.naflex:
        raise UserError(
            "A frozen model keeps the aspect ratio of images, which training does not; name one of one size."
        )
    size, own = config.image_size, facts.preprocessing
    resolution = size[0] if size else own.resolution
    if resolution is None:
        return dataclasses.replace(student, mean=own.mean, std=own.std)
    return dataclasses.replace(own.at(resolution), exif=exif)


def digest(path: Path) -> str:
    """`SHA-256 ...` of a file, or of all files of which `path` is the index."""
    beside = {".json": "*.safetensors", ".index": f"{path.stem}.data-*"}.get(path.suffix)
    hashed = hashlib.sha256()
    for file in (path, *(sorted(path.parent.glob(beside)) if beside else ())):
        with open(file, "rb") as whole:
            hashlib.file_digest(whole, lambda: hashed)
    return f"SHA-256 {hashed.hexdigest()}"


def training_view(recipe: Recipe, seen: Preprocessing, name: str, view: TeacherView) -> list[Column]:
    """A frozen model's own column of a training batch; none where it sees the pixels of the model that is trained."""
    if view == "fixed":
        return [eval_images(seen, name)]
    if seen.resolution == recipe.crop:
        return [] if view == "same" else [train_images(recipe, name, own_view=True)]
    return [train_images(resized_recipe(recipe, seen.resolution, seen.resize_kind), name, own_view=view == "own")]
