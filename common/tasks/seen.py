"""What the model that is trained sees of images: squares of one size, or all at their own aspect ratio (a NaFlex)."""

import contextlib
import math
from typing import Any

import numpy as np

from common.data.columns import VIEW, Column, eval_images, train_images
from common.data.decoded import Room, Shrink, evaluation_shrink, training_shrink
from common.data.images import BrokenImage
from common.data.naflex import fitted_size, own_box, patch_columns, train_patch_columns
from common.models import with_noise
from common.models.family import Config
from common.recipes.create import MOST_BYTES
from common.recipes.per_step import lengths, sides
from common.system.errors import UserError

MOST_PADDING = 0.1  # of the tokens; above it, a person is told of a better number


def image_size(recipe: Any) -> tuple[int, int] | None:
    """Height and width of the images; None where they keep their aspect ratio and positions stay as they are."""
    return None if recipe.token_lengths else (recipe.crop, recipe.crop)


def seeing(config: Config, plan: Any) -> Config:
    """The model as it sees images in this run; with --token_lengths, at their own aspect ratio.

    The plan's notes tell of much padding. Raises UserError for a NaFlex without them, and for too large a batch.
    """
    if not plan.recipe.token_lengths:
        if config.naflex:
            tokens = math.prod(tower(config).grid)
            raise UserError(
                f"{plan.config.model} keeps the aspect ratio of images, and nothing says of how many patches they are at most; "
                f"give --tokens, such as --tokens {tokens}."
            )
        return config
    patch = tower(config := config.as_naflex()).patch_size
    largest = max(*lengths(plan.recipe.token_lengths), plan.config.tokens or 1)
    for flag, batch in (("batch", plan.recipe.batch), ("batch_eval", plan.recipe.batch_eval)):
        if (size := batch * largest * math.prod(patch) * 3) > MOST_BYTES:
            raise UserError(
                f"--{flag} {batch} of {largest} patches is {-(-size // 2**30):,} GiB of pixels, expected at most "
                f"{MOST_BYTES // 2**30}; give fewer images or fewer patches."
            )
    plan.notes.extend(padding_notes(plan, patch))
    return config


def of_drawn_patches(config: Config, recipe: Any) -> Config:
    """The same model for patches of every size that --patch_sizes draws. Raises UserError where it cannot have them."""
    if not recipe.patch_sizes:
        return config
    config = config.resizable(sides(recipe.patch_sizes))
    fewest = config.at_patch([max(sides(recipe.patch_sizes))] * 2)
    with_noise(fewest, 0.0, 0.0, recipe.patch_dropout)  # to be refused where it leaves none of the largest patches
    return config


def tower(config: Config) -> Config:
    """The model of images within one, or itself."""
    return config.children.get("image", config)


def image_columns(plan: Any, train: bool) -> tuple[Column, ...]:
    """The column of images in a batch, of a NaFlex with their coordinates and mask."""
    if not plan.recipe.token_lengths:
        return (train_images(plan.recipe) if train else eval_images(plan.preprocessing),)
    patch, seen = tower(plan.model_config).patch_size, plan.preprocessing
    return train_patch_columns(patch, plan.recipe) if train else patch_columns(patch, seen.tokens, seen.resize_kind)


def shrinks(plan: Any, room: Room) -> dict[str, Shrink]:
    """Of the splits whose images are seen in one way, what all views begin with: {split: what to do once}."""
    found, recipe = {}, plan.recipe
    for name, split in plan.splits.items() if not recipe.token_lengths else ():
        columns = plan.task.columns(plan, split, name == "train")
        if [column.name for column in columns if column.name.endswith("images")] == ["images"]:
            of_training = training_shrink(recipe, plan.dataset.image_size, len(split), room)
            found[name] = of_training if name == "train" else evaluation_shrink(plan.preprocessing)
    return found


def padding_notes(plan: Any, patch: tuple[int, int]) -> list[str]:
    """A line on each of --token_lengths of which more than a tenth would be padding, with the best number near it."""
    sizes, notes = plan.splits["train"].sizes(101), []
    draws = np.random.default_rng([plan.config.seed, VIEW.number, 0]).random((len(sizes), *VIEW.shape))
    boxes = [own_box(size, plan.recipe, row)[2:] for size, row in zip(sizes, draws.tolist())]
    for tokens in lengths(plan.recipe.token_lengths):
        if (share := padding(boxes, patch, tokens)) > MOST_PADDING:
            near = range(-(-3 * tokens // 4), 5 * tokens // 4 + 1)
            best = min(near, key=lambda count: (padding(boxes, patch, count), abs(count - tokens)))
            notes.append(
                f"Of {tokens} tokens {share:.0%} are padding for images of these aspect ratios, and of {best} "
                f"{padding(boxes, patch, best):.0%}."
            )
    return notes


def padding(sizes: list[tuple[int, int]], patch: tuple[int, int], tokens: int) -> float:
    """The part of a batch's tokens that are padding for images of these heights and widths."""
    counts = []
    for size in sizes:
        with contextlib.suppress(BrokenImage):  # which the step that meets it tells of
            counts.append(math.prod(fitted_size(size, patch, tokens)) / math.prod(patch))
    return 1 - sum(counts) / (tokens * len(counts)) if counts else 0.0
