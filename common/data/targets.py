"""The columns of models that predict every pixel: an image, and the map that belongs to it, cut and mirrored alike.

A batch has `images` uint8 [B, H, W, 3] and `maps`: of colourization the colours, uint8 [B, H, W, 3], whose image is grey; of
depth float32 [B, H, W, 1], metres; of a panoptic segmentation int32 [B, H, W, 2], category and instance.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.data import images
from common.data.columns import VIEW, Column, eval_images, train_images
from common.data.label_maps import Category
from common.data.split import Example, Split
from common.data.views import augment, model_view, seen_part
from common.models import VqVaeConfig
from common.models.cards import Preprocessing
from common.recipes.choices import Target
from common.recipes.recipe import Recipe
from common.system.errors import UserError


def canonical(found: np.ndarray) -> np.ndarray:
    """int32 [H, W, 2] of a panoptic map [H, W, 3]: instances are numbered from 1 on, by the rows and then columns of their means.

    Source: `make_canonical` of `pp/proj/uvim/pp_ops.py` of google-research/big_vision, in float32 as there. 0: not known.
    """
    height, width = found.shape[:2]
    known, instances = np.unique(found[..., 1], return_inverse=True)
    instances = instances.ravel()
    counts = np.bincount(instances)
    rows, columns = (np.bincount(instances, place.ravel()) / counts for place in np.indices((height, width)))
    places = columns.astype(np.float32) + np.float32(height) * rows.astype(np.float32)
    order = np.argsort(np.where(known > 0, places, np.inf), kind="stable")
    numbers = np.empty(len(known), np.int32)
    numbers[order] = np.arange(1, len(known) + 1)
    numbers[known <= 0] = 0
    return np.stack([found[..., 0], numbers[instances].reshape(height, width)], -1)


class Form(NamedTuple):
    """A row of TARGETS: what the maps of a target are."""

    channels: int
    dtype: type
    whole: Callable[[Example], np.ndarray]  # all of an example's map
    seen: Callable[[np.ndarray], np.ndarray] = lambda found: found  # of what a view shows of it
    shown: Callable[[np.ndarray], np.ndarray] = lambda image: image  # what a model is shown of an image
    resize_kind: str | None = "nearest"  # None: as images
    needs_maps: bool = True  # beside images
    known_channels: int | None = None  # of `whole`, where a model sees fewer


TARGETS: dict[Target, Form] = {
    "colorization": Form(
        3, np.uint8, lambda example: example.image, shown=images.grey, resize_kind=None, needs_maps=False
    ),
    "depth": Form(1, np.float32, lambda example: example.map),
    "panoptic": Form(2, np.int32, lambda example: example.map, canonical, known_channels=3),
}


def check_maps(split: Split, config: VqVaeConfig, name: str) -> None:
    """Raise UserError where the images of the data set `name` have no maps such as the model's, or more categories."""
    found, target = split.maps.kind if split.maps else None, config.target
    needs_maps = TARGETS[target].needs_maps
    if needs_maps and found != target:
        raise UserError(
            f"The images of {name} have {f'maps of {found}' if found else 'no maps'}, and {target} needs maps of {target}; choose "
            "a data set that has them, such as maps:FOLDER, coco_panoptic:FOLDER or tfds:nyu_depth_v2."
        )
    if needs_maps and split.exif == "apply":
        raise UserError("--exif apply turns images and not their maps; leave it out.")
    if needs_maps and len(categories(split)) >= config.bins[0]:
        raise UserError(
            f"The images of {name} have {len(categories(split)):,} categories, and the model tells {config.bins[0] - 1:,} apart; "
            "merge some in the list of categories and in the maps."
        )


def categories(split: Split) -> tuple[Category, ...]:
    """Those of a panoptic segmentation; none of other maps."""
    return split.maps.categories if split.maps else ()


def train_columns(target: Target, recipe: Recipe, name: str = "images") -> tuple[Column, Column]:
    """`images`, or as they are called, and `maps` of a training view, by the recipe's box and flip.

    Raises UserError for RandAugment.
    """
    form, truths = TARGETS[target], train_truths(target, recipe)
    shape = (recipe.crop, recipe.crop, form.channels)
    maps = truths._replace(name="maps", shape=shape, make=lambda *arguments: form.seen(truths.make(*arguments)))
    return shown_as(train_images(recipe, name), form), maps


def train_truths(target: Target, recipe: Recipe) -> Column:
    """`truths`: what is known of each pixel of a training view, as predictions are judged by it: see `Truths`.

    Raises UserError for RandAugment.
    """
    if recipe.randaugment_layers:
        raise UserError(f"--randaugment_layers {recipe.randaugment_layers} moves pixels and not their maps; give 0.")
    form = TARGETS[target]
    mapped = dataclasses.replace(recipe, resize_kind=form.resize_kind or recipe.resize_kind)

    def make(example: Example, draws: Sequence[float]) -> np.ndarray:
        return in_form(augment(form.whole(example), mapped, draws), form)

    shape = (recipe.crop, recipe.crop, form.known_channels or form.channels)
    return Column("truths", shape, form.dtype, make, (VIEW,))


def shown_as(column: Column, form: Form) -> Column:
    """A column of images, as models of this form are shown them."""
    return column._replace(make=lambda *arguments: form.shown(column.make(*arguments)))


def in_form(found: np.ndarray, form: Form) -> np.ndarray:
    """What a view shows of a map, with its channels, of which OpenCV drops a single one."""
    return found.reshape(*found.shape[:2], -1)


def eval_shown(target: Target, preprocessing: Preprocessing, name: str = "images") -> Column:
    """What a model is shown of an image in evaluation."""
    return shown_as(eval_images(preprocessing, name), TARGETS[target])


def eval_maps(target: Target, preprocessing: Preprocessing) -> Column:
    """`maps`: what belongs to each pixel that a model is shown in evaluation."""
    form, side = TARGETS[target], preprocessing.resolution
    mapped = dataclasses.replace(preprocessing, resize_kind=form.resize_kind or preprocessing.resize_kind)

    def make(example: Example) -> np.ndarray:
        return form.seen(in_form(model_view(form.whole(example), mapped), form))

    return Column("maps", (side, side, form.channels), form.dtype, make)


@dataclasses.dataclass(frozen=True)
class Truths:
    """The maps that predictions of a split are judged by, as a sequence; of colours as the model sees them, others at their own size."""

    split: Split
    target: Target
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> np.ndarray:
        """That of example i, cut to what the model sees: uint8 [H, W, 3], float32 [H, W, 1], or panoptic int32 [H, W, 3]."""
        if not TARGETS[self.target].needs_maps:
            return self.split.view(i, eval_maps(self.target, self.preprocessing).make)
        found = self.split.view(i, lambda example: example.map)
        return found[seen_part(found.shape[:2], self.preprocessing)]

    def image(self, i: int) -> np.ndarray:
        """uint8 [R, R, 3]: what the model is shown of example i."""
        return self.split.view(i, eval_shown(self.target, self.preprocessing).make)

    @property
    def categories(self) -> tuple[Category, ...]:
        """Those of a panoptic segmentation."""
        return categories(self.split)
