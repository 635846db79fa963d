"""What a batch is made of: a column is one array, whose rows the threads make one by one."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.data import randaugment
from common.data.split import Example, Split
from common.data.views import augment, model_view
from common.models.cards import Preprocessing
from common.recipes.choices import CodeDropout
from common.recipes.recipe import Recipe
from common.system.errors import UserError

CHUNK = 64  # rows that one thread makes, one after another
Arrays = dict[str, np.ndarray]


class Stream(NamedTuple):
    """Random numbers in [0, 1) for every row of a batch, from the generator `default_rng([seed, number, step])`.

    A number belongs to one purpose for ever, so that no stream changes what another one draws. 0 orders the epochs; 2, 3
    and 8 are those of stochastic depth, dropout and patch dropout, 11 of what is written in evaluation, 13 of codebooks.
    """

    name: str
    number: int
    shape: tuple[int, ...]  # of one row's numbers


class Column(NamedTuple):
    """One array of a batch."""

    name: str
    shape: tuple[int, ...]  # of one row
    dtype: type
    # One row, in any thread and order: make(example, *draws), where draws are the row's numbers of every stream.
    make: Callable[..., np.ndarray | np.number]
    streams: tuple[Stream, ...] = ()
    of_tokens: "Callable[[int], Column] | None" = None  # the same for so many patches, where steps draw their number

    def at(self, tokens: int | None) -> "Column":
        """This column in a step for `tokens` patches; None: as it is."""
        return self.of_tokens(tokens) if tokens and self.of_tokens else self

    @property
    def row_bytes(self) -> int:
        """The memory of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


# --- the columns of images with classes

VIEW, OTHER_VIEW = Stream("draws", 1, (5,)), Stream("other_draws", 5, (5,))  # a crop and a flip


def train_images(recipe: Recipe, name: str = "images", *, own_view: bool = False) -> Column:
    """uint8 [crop, crop, 3]: the training view of the recipe's resolution and resize.

    All such columns of a batch show the same box and flip of an image, each from its full pixels; those with `own_view`
    show another one. Another model's column takes `views.resized_recipe`. RandAugment shifts and covers whole pixels: at
    twice the resolution, half as much of the picture.
    """
    view, layers = (OTHER_VIEW, ("other_randaugment", 6)) if own_view else (VIEW, ("randaugment", 4))

    def make(example: Example, draws: Sequence[float], layers: Sequence[Sequence[float]]) -> np.ndarray:
        return augment(example.image, recipe, draws, layers)

    return Column(name, (recipe.crop, recipe.crop, 3), np.uint8, make, (view, randaugment_layers(recipe, *layers)))


def randaugment_layers(recipe: Recipe, name: str = "randaugment", number: int = 4) -> Stream:
    """Its numbers, of every layer."""
    return Stream(name, number, (recipe.randaugment_layers, randaugment.DRAWS))


def eval_images(preprocessing: Preprocessing, name: str = "images") -> Column:
    """uint8 [resolution, resolution, 3]: what a model sees of an image in evaluation."""
    shape = (preprocessing.resolution, preprocessing.resolution, 3)
    return Column(name, shape, np.uint8, lambda example: model_view(example.image, preprocessing))


def labels(split: Split) -> Column:
    """int32 [], the class; or int32 [N], where an example has any number of them: all of its classes, filled up with -1."""
    known = split.labels
    if split.is_multi_label:
        width = known.width
        return Column("labels", (width,), np.int32, lambda example: known.row(example.number, width))
    return Column("labels", (), np.int32, lambda example: known[example.number])


CAPTION = Stream("caption_draws", 7, ())


def kept_codes(count: int, kind: CodeDropout) -> list[Column]:
    """bool [count]: the codes of an example's map that are seen, of which a number drawn evenly is not: the `last`, or `random` ones.

    Source: `decode` of big_vision's `models/proj/uvim/vit.py`.
    """
    stream, importance = Stream("code_draws", 14, (count + 1,)), np.linspace(1, 0, count + 2)[1:-1]

    def make(example: Example, draws: Sequence[float]) -> np.ndarray:
        seen = importance > draws[0]
        return seen[np.argsort(draws[1:])] if kind == "random" else seen

    return [Column("kept_codes", (count,), bool, make, (stream,))]


def check_captions(split: Split) -> None:
    """Raise UserError for images without captions."""
    if split.captions is None:
        raise UserError(
            "The images of this dataset have no captions, which the model is to be trained with; choose a dataset with "
            "captions, such as wds:PATTERN, parquet:PATTERN, coco:FOLDER, or a folder with train/captions.tsv."
        )


def captions(
    split: Split,
    encode: Callable[[str], np.ndarray],
    shape: tuple[int, ...],
    dtype: type = np.int32,
    name: str = "tokens",
) -> Column:
    """What `encode` makes of one of an example's captions, drawn anew for every step: int32 [L] of tokens, or pixels.

    UserError for a dataset without captions.
    """
    check_captions(split)
    known = split.captions

    def make(example: Example, draw: float) -> np.ndarray:
        texts = known[example.number]
        return encode(texts[int(draw * len(texts))])

    return Column(name, shape, dtype, make, (CAPTION,))


# --- filling them


def chunks(count: int) -> list[range]:
    """range(count) in pieces of at most CHUNK."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def jobs(
    columns: Sequence[Column], arrays: Arrays, split: Split, examples: Sequence[int], draws: dict[str, np.ndarray]
) -> list[Callable[[], None]]:
    """What makes the first rows of `arrays`, one for each of `examples`, in any thread and order.

    `draws` holds the numbers of the columns' streams, {name: [B, ...]}. A job raises UserError for a broken image.
    """
    parts = []  # (array, make, each row's draws as Python's own numbers, which are quicker singly)
    for column in columns:
        numbers = list(zip(*(draws[stream.name].tolist() for stream in column.streams)))
        parts.append((arrays[column.name], column.make, numbers or [()] * len(examples)))

    def fill(example: Example, row: int) -> None:
        for array, make, numbers in parts:
            array[row] = make(example, *numbers[row])

    def run(rows: range) -> None:
        for row in rows:
            split.view(examples[row], fill, row)

    return [lambda rows=rows: run(rows) for rows in chunks(len(examples))]


def empty(columns: Sequence[Column], count: int) -> Arrays:
    """{name: an array [count, ...] to be filled}."""
    return {column.name: np.empty((count, *column.shape), column.dtype) for column in columns}
