"""The names under which models were published.

The manifest (`weights/manifest.json`) holds one row per published file: name, architecture, classes, resolution,
address, and size and digest where known.
"""

import dataclasses
import functools
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from common.models.bert import BertConfig
from common.models.cards import Card
from common.models.decoder import DecoderConfig
from common.models.families import FAMILIES, ModelConfig, find_architecture, head_classes
from common.models.later_vits import LATER
from common.models.tokens import CLIPPO, TEXTS, Text
from common.models.two_towers import TwoTowersConfig
from common.system.errors import UserError, nearest

PACKAGED_WEIGHTS = Path(__file__).resolve().parent.parent.parent / "weights"
CLASS_NAMES = Path(__file__).resolve().parent.parent / "imagenet-classes.zip"
DEFAULT_MODEL = "BiT-T-R26x0.5"
DOWNLOADS = "weights"  # the folder of downloaded weights, where --bit_pretrained_dir names no other


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """One row of the manifest."""

    name: str
    architecture: str
    num_classes: int
    source: str  # what the file was trained on
    resolution: int | None = None  # evaluation size in pixels, where the model fixes one
    url: str | None = None  # None: shipped with the project, or not published
    bytes: int | None = None
    sha256: str | None = None
    accuracy: float | None = None  # top-1 on ImageNet's validation images that its source states, a fraction
    # How its source prepares images to evaluate it, and its loss in training; as in a card.
    resize_kind: str = "bilinear"
    eval_resize: int = 0
    rounding: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    loss: str = "softmax"
    changes: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # fields that the architecture's row has otherwise

    def config(self, num_classes: int | None = None) -> ModelConfig:
        """The architecture with its published number of classes, or with `num_classes`; 0 for no head."""
        classes = head_classes(num_classes, self.num_classes or None)
        config = find_architecture(self.architecture, **self.changes).with_classes(classes)
        return config.at((self.resolution, self.resolution)) if self.resolution and config.image_size else config

    @property
    def card(self) -> Card:
        """The card of the published file."""
        names = ("resize_kind", "eval_resize", "rounding", "mean", "std", "text")
        prepared = {name: getattr(self, name) for name in names}
        return Card(resolution=self.resolution, class_names=self.class_names, loss=self.loss, **prepared)

    @property
    def usual(self) -> Card:
        """What the name tells of any file of the model: how texts become numbers; of LATER, how images are prepared."""
        return self.card if self.name in LATER else Card(text=self.text)

    @property
    def text(self) -> Text | None:
        """See `text_of`."""
        return text_of(self.config())

    @property
    def file(self) -> str:
        """The place of the weights below the weights folder: `ViT-B/16` in `ViT-B_16.npz`, `vtab/...` in a folder."""
        return f"{re.sub(r'/(?=[0-9])', '_', self.name)}.npz"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes of ImageNet-1k or ImageNet-21k, in the order of the head; None for other data sets."""
        return imagenet_classes(self.num_classes) if self.url and not self.name.startswith("vtab/") else None


def text_of(config: ModelConfig) -> Text | None:
    """The preparation of texts of the published models with a vocabulary of this size; None for images alone, or another size."""
    if isinstance(config, DecoderConfig):  # big_vision's generative models fill up with 0, its contrastive ones with 1
        known = TEXTS.get(config.vocabulary)
        return known and dataclasses.replace(known, length=config.length, padding=0)
    if not isinstance(config, TwoTowersConfig):
        return None
    if config.text is None:
        return config.image_size and dataclasses.replace(CLIPPO, length=config.image_size[0])
    known = TEXTS.get(config.text.vocabulary)
    if known is None or isinstance(config.text, BertConfig):  # which has more places than LiT's texts have tokens
        return known
    return dataclasses.replace(known, length=config.text.length)


@functools.cache
def imagenet_classes(num_classes: int) -> tuple[str, ...] | None:
    """English names of ImageNet's 1,000 or ImageNet-21k's 21,843 classes; None for another number.

    Source: the lists of WordNet synsets and lemmas in timm (`timm/data/_info`); see scripts/class_names.py.
    """
    return read_classes(f"{num_classes}.txt")


@functools.cache
def prompted_classes() -> dict[str, str]:
    """{WordNet's number: the name that CLIP's authors gave it for prompts} of ImageNet's 1,000 classes, in their order."""
    return dict(zip(read_classes("synsets.txt"), read_classes("prompted.txt"), strict=True))


def read_classes(file: str) -> tuple[str, ...] | None:
    """The lines of a list of imagenet-classes.zip; None where it is none of them."""
    with zipfile.ZipFile(CLASS_NAMES) as archive:
        return tuple(archive.read(file).decode().split("\n")) if file in archive.namelist() else None


@functools.cache
def published_models() -> dict[str, PublishedModel]:
    """{name: row} of the whole manifest."""
    return {row["name"]: PublishedModel(**row) for row in read_manifest()["models"]}


@functools.cache
def read_manifest() -> dict[str, Any]:
    """weights/manifest.json: `models`, and `patterns` of families of files that are too many to list."""
    return json.loads((PACKAGED_WEIGHTS / "manifest.json").read_text())


def find_model(name: str) -> PublishedModel:
    """The manifest's row called `name`, one of its patterns, or an architecture without published weights.

    Raises UserError with the nearest names when there is none.
    """
    models = published_models()
    if name in models:
        return models[name]
    for pattern in read_manifest()["patterns"]:
        if found := re.fullmatch(pattern["regex"], name):
            return described(name, found, pattern)
    if name in unpublished_models():
        return unpublished_models()[name]
    known = [*models, *unpublished_models()]
    raise UserError(f"No model is called {name!r}{nearest(name, known)} The names stand in weights/manifest.json.")


@functools.cache
def unpublished_models() -> dict[str, PublishedModel]:
    """{name: model} of the architectures without a published file of that name; a BiT's names the data."""
    variants = {name: one for family in FAMILIES.values() if family.by_name for name, one in family.variants.items()}
    return {
        name: PublishedModel(name, name, config.num_classes or 0, **stated(name))
        for name, config in variants.items()
        if name not in published_models()
    }


def stated(name: str) -> dict[str, Any]:
    """Fields of the row of an architecture that is not in the manifest."""
    if name in LATER:
        return {"source": LATER[name].source} | LATER[name].prepared
    return {"source": "initial values; no weights were published under this name"}


def described(name: str, found: re.Match, pattern: dict[str, Any]) -> PublishedModel:
    """The model of a file name that a pattern of the manifest describes."""
    parts = found.groupdict()
    trained = parts["tuned"] or parts["upstream"]
    classes = pattern["classes"][trained]
    resolution = int(parts["resolution"] or 224)
    url = pattern["url"].format(file=parts["file"])
    architecture, prepared = pattern["architectures"][parts["variant"]], pattern["prepared"][trained]
    return PublishedModel(name, architecture, classes, pattern["source"], resolution, url, **prepared)
