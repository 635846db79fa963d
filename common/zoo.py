"""The shared part of the engines' Python API: names of models, preparation of images, names of classes."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data import images
from common.data.batches import EvalBatches
from common.data.naflex import patch_columns
from common.data.split import Split, typical_size
from common.data.targets import TARGETS
from common.data.text import kept_tokenizer
from common.data.views import model_view
from common.models import ModelConfig, VqVaeConfig, find_model, published_models, unpublished_models
from common.models.cards import Card, Preprocessing, nameless
from common.recipes import hyperrule
from common.recipes.choices import LONGEST_SIDE
from common.runs.prediction import find_images, likeliest
from common.system.errors import UserError, shortened
from common.system.files import read_regular
from common.weights import Start, choose_file, starting_values

Size = int | tuple[int, int]  # of images, in pixels: a square's side, or height and width
Known = tuple[ModelConfig, Preprocessing, Card]  # of a model
ONE_IMAGE = (str, Path, bytes, np.ndarray)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> dict[str, str]:
    """{name: what it was trained on} of the models whose names match, in any case: `vit*`, `*R50x1*`, `*/16`.

    `pretrained` leaves out the names without published weights. The thousands of files of "How to train your ViT?", of
    which the manifest has only the pattern, are not listed.
    """
    rows = published_models() | ({} if pretrained else unpublished_models())
    return {name: row.source for name, row in rows.items() if fnmatch.fnmatchcase(name.lower(), pattern.lower())}


def start(
    name: str, num_classes: int | None, image_size: Size | None, patch_size: int | None, weights: str | Path | None,
    tokens: int | None = None,
) -> Start:  # fmt: skip
    """The start of `create_model` in every engine; the card holds the size of images, too. Raises UserError."""
    model, size = find_model(name), to_size(image_size)
    path = choose_file(model, weights)
    pretrained = weights == "pretrained"
    found = starting_values(model, path, num_classes, image_size=size, patch_size=patch_size, pretrained=pretrained)
    card = found.card
    if not found.config.image_size:
        card = card.over(Card(resolution=model.resolution))
    if size:
        card = dataclasses.replace(card, resolution=size[0], eval_resize=card.preprocessing.at(size[0]).eval_resize)
    if tokens is not None:
        check_tokens(tokens)
        found, card = found._replace(config=found.config.as_naflex()), dataclasses.replace(card, tokens=tokens)
    return found._replace(card=card)


def check_tokens(tokens: int) -> None:
    """Raise UserError for what is no number of patches."""
    if not (isinstance(tokens, int) and 1 <= tokens <= LONGEST_SIDE):
        raise UserError(f"tokens is {tokens!r}, expected a number of patches from 1 to {LONGEST_SIDE}.")


def to_size(image_size: Size | None) -> tuple[int, int] | None:
    """(height, width) in pixels. Raises UserError for what is no size."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    is_size = isinstance(size, tuple | list) and len(size) == 2
    if size is not None and not (is_size and all(isinstance(side, int) and 1 <= side <= LONGEST_SIDE for side in size)):
        raise UserError(f"image_size is {image_size!r}, expected pixels: a square's side, or (height, width).")
    return size and tuple(size)


def published_facts(name: str) -> Known:
    """The card of the published model called `name`. Raises UserError."""
    model = find_model(name)
    return model.config(), model.card.preprocessing, model.card


def preprocess(config: ModelConfig, preprocessing: Preprocessing, pictures: Any) -> np.ndarray | dict[str, np.ndarray]:
    """float32 [B, H, W, 3]: what `predict` shows a model of `config` that wants its images so, bit for bit.

    Of a NaFlex {images: float32 [B, L * P, P, 3], coordinates: int32 [B, L, 2], patch_mask: bool [B, L]}, of as many patches
    as `preprocessing` says, or else as the model has positions.

    `pictures` is an image or a list of images: paths of files or of folders of them, the bytes of files, images of Pillow,
    or uint8 [H, W, 3]; also uint8 [B, H, W, 3]. Where neither of them has a resolution, the BiT-HyperRule chooses
    one for the typical size of these images. Raises UserError for what is no image.
    """
    split = dataclasses.replace(to_split(pictures), exif=preprocessing.exif)
    if config.naflex:
        return in_patches(config, preprocessing, split)
    fixed, *width = config.image_size or (preprocessing.resolution,)
    if width not in ([], [fixed]):
        raise UserError(f"The model takes {fixed} x {width[0]} pixels, expected a square: resize images by yourself.")
    preprocessing = preprocessing.at(fixed or hyperrule.resolution(typical_size(split))[1])
    shown = TARGETS[config.target].shown if isinstance(config, VqVaeConfig) else lambda image: image
    view = lambda example: shown(model_view(example.image, preprocessing))
    return preprocessing.scale(np.stack([split.view(i, view) for i in range(len(split))]))


def in_patches(config: ModelConfig, preprocessing: Preprocessing, split: Split) -> dict[str, np.ndarray]:
    """`preprocess` of a NaFlex."""
    tower = config.children.get("image", config)
    tokens = preprocessing.tokens or math.prod(tower.grid)
    columns = patch_columns(tower.patch_size, tokens, preprocessing.resize_kind)
    found, jobs = EvalBatches(split, None, len(split), columns=columns).jobs(0)
    for job in jobs:
        job()
    del found["mask"]
    return found | {"images": preprocessing.scale(found["images"])}


def each(found: np.ndarray | dict[str, np.ndarray], convert: Callable[[np.ndarray], Any]) -> Any:
    """What `convert` makes of an array, or of each of several."""
    return {name: convert(array) for name, array in found.items()} if isinstance(found, dict) else convert(found)


def tokenize(known: Known, texts: str | Sequence[str], folder: str | Path) -> np.ndarray:
    """int32 [T, L] of one text or of several, as the card says; or float32 [T, H, W, 3] of a model whose texts are drawn.

    The vocabulary is shipped, or lies in `folder`. Raises UserError for a model of images alone, and without its vocabulary.
    """
    _, preprocessing, card = known
    if card.text is None:
        raise UserError(
            "The model takes no texts, or its card does not say how; choose an image-text model such as SigLIP-T/8."
        )
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, bytes) or not hasattr(texts, "__iter__"):
        raise UserError(f"The texts are {shortened(repr(texts))}, expected one text or a list of them.")
    found = kept_tokenizer(card.text, folder=str(folder)).encode(list(texts))
    return preprocessing.scale(found) if found.ndim == 4 else found


def to_split(pictures: Any) -> Split:
    """Images that a user gives, as those of a dataset. Raises UserError where there are none."""
    if isinstance(pictures, np.ndarray) and pictures.ndim == 4:
        pictures = list(pictures)
    elif isinstance(pictures, ONE_IMAGE) or not hasattr(pictures, "__iter__"):
        pictures = [pictures]
    readers = [reader for number, picture in enumerate(pictures) for reader in opened(picture, number)]
    if not readers:
        raise UserError("There is no image in an empty list; give at least one.")
    names, reads = zip(*readers)
    return Split(lambda i: reads[i](), np.zeros(len(reads), np.int32), lambda i: names[i])


def opened(picture: Any, number: int) -> list[tuple[str, Callable[[], bytes | np.ndarray]]]:
    """(what an error calls it, what gives its file's bytes or its pixels) of an image, or of each in a folder.

    Raises UserError for what is no image.
    """
    name = f"number {number}"
    if isinstance(picture, str | Path):
        return [(path, lambda path=path: read_regular(path)) for path in find_images((str(picture),))]
    if isinstance(picture, bytes):
        return [(name, lambda: picture)]
    if hasattr(picture, "convert"):  # an image of Pillow
        return [(name, lambda: images.to_rgb(picture))]
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UserError(
            f"Image {name} is a {type(picture).__name__} of {pixels.dtype} {list(pixels.shape)}, expected a path, bytes, an "
            "image of Pillow or uint8 [height, width, 3]."
        )
    return [(name, lambda: pixels)]


def decode_predictions(card: Card, logits: np.ndarray, top: int) -> list[list[tuple[str, float]]]:
    """For each row of `logits` [B, K], its `top` likeliest classes: (name, probability), as `predict` shows them.

    Raises UserError where there are not as many logits as names.
    """
    logits = np.atleast_2d(np.asarray(logits, np.float64))
    if logits.ndim != 2 or card.class_names is not None and logits.shape[1] != len(card.class_names):
        expected = f"[images, {len(card.class_names) if card.class_names else 'classes'}]"
        raise UserError(f"The logits are {list(logits.shape)}, expected {expected}: what the model returns of images.")
    names = card.class_names or nameless(logits.shape[1])
    return [likeliest(row, names, top) for row in logits]
