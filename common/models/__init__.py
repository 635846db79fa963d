"""Model families as frozen configurations, and the names under which models were published.

The manifest (`weights/manifest.json`) holds one row per published file: name, architecture, classes, resolution,
address, and size and digest where known.
"""

import dataclasses
import functools
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from common.models.cards import Card
from common.models.mixer import MIXER_VARIANTS, MixerConfig
from common.models.resnet import ARCHITECTURES, RESNET_V1_DEPTHS, ResNetConfig, ResNetV1Config
from common.models.vit import HYBRIDS, VIT_VARIANTS, ViTConfig
from common.system.errors import UserError, nearest

__all__ = [
    "ARCHITECTURES",
    "DEFAULT_MODEL",
    "DOWNLOADS",
    "PACKAGED_WEIGHTS",
    "MixerConfig",
    "ModelConfig",
    "PublishedModel",
    "ResNetConfig",
    "ResNetV1Config",
    "ViTConfig",
    "architectures",
    "find_architecture",
    "find_model",
    "head_classes",
    "num_parameters",
    "published_models",
    "trained_parameters",
    "unpublished_models",
    "with_noise",
]

PACKAGED_WEIGHTS = Path(__file__).resolve().parent.parent.parent / "weights"
CLASS_NAMES = Path(__file__).resolve().parent.parent / "imagenet-classes.zip"
DEFAULT_MODEL = "BiT-T-R26x0.5"
DOWNLOADS = "weights"  # the folder of downloaded weights, where --bit_pretrained_dir names no other
ModelConfig = ResNetConfig | ResNetV1Config | ViTConfig | MixerConfig


@functools.cache
def architectures() -> dict[str, ModelConfig]:
    """{name: config for 1,000 classes and, where the size matters, 224 pixels} of every row of the families' tables.

    BiT's names are `R50x1`, ResNet V1's `R50`; the others are the papers': `ViT-B/16`, `R50+ViT-B/16`, `Mixer-B/16`.
    """
    configs = {name: ResNetConfig(*row, 1000) for name, row in ARCHITECTURES.items()}
    configs |= {f"R{layers}": ResNetV1Config(units, 1, 1000) for layers, units in RESNET_V1_DEPTHS.items()}
    for name, (*sizes, patches) in VIT_VARIANTS.items():
        configs |= {f"ViT-{name}/{patch}": ViTConfig((patch, patch), *sizes, 1000) for patch in patches}
    for name, (variant, patch, units) in HYBRIDS.items():
        sizes = VIT_VARIANTS[variant][:-1]
        configs[name] = ViTConfig((patch, patch), *sizes, 1000, backbone=ResNetV1Config(units, 1))
    for name, (*sizes, patches) in MIXER_VARIANTS.items():
        configs |= {f"Mixer-{name}/{patch}": MixerConfig((patch, patch), *sizes, 1000) for patch in patches}
    return configs


def find_architecture(name: str, **changes) -> ModelConfig:
    """The architecture called `name` with changed fields; UserError with the nearest names when there is none."""
    if name not in architectures():
        raise UserError(f"No architecture is called {name!r}{nearest(name, architectures())} See common/models/.")
    return dataclasses.replace(architectures()[name], **changes)


def with_noise(config: ModelConfig, dropout: float, stochastic_depth: float) -> ModelConfig:
    """`config` for a training run with these rates; UserError where the family has no such thing."""
    if stochastic_depth and not config.num_branches:
        raise UserError(f"--stochastic_depth {stochastic_depth} is for ViT and Mixer only; give 0.")
    if dropout and not config.num_dropouts:
        raise UserError(f"--dropout {dropout} is for ViT only; give 0.")
    return dataclasses.replace(config, dropout=dropout) if config.num_dropouts else config


def trained_parameters(config: ModelConfig, train_only: str) -> frozenset[str]:
    """Names of the parameters that a run trains: `all`, those of the `head`, or of the head and every `norm`.

    A norm is what has a scale; a scale and a bias are all it has.
    """
    names = frozenset(config.parameter_shapes())
    if train_only == "all":
        return names
    trained = {"head"}
    if train_only == "norm":
        trained |= {name.removesuffix("/scale") for name in names if name.endswith("/scale")}
    return frozenset(name for name in names if name.rpartition("/")[0] in trained)


def num_parameters(config: ModelConfig) -> int:
    """Number of parameters, counted without allocating any."""
    return sum(math.prod(shape) for shape in config.parameter_shapes().values())


def head_classes(wanted: int | None, known: int | None) -> int | None:
    """The number of classes of a head: `wanted`, or else the `known` one; None without a head, which 0 asks for.

    Raises UserError for what is no number of classes.
    """
    if wanted is None:
        return known
    if not isinstance(wanted, int) or wanted < 0:
        raise UserError(f"num_classes is {wanted!r}, expected a number of classes, or 0 for a model without a head.")
    return int(wanted) or None


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
    loss: str = "softmax"
    changes: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # fields that the architecture's row has otherwise

    def config(self, num_classes: int | None = None) -> ModelConfig:
        """The architecture with its published number of classes, or with `num_classes`; 0 for no head."""
        classes = head_classes(num_classes, self.num_classes)
        config = find_architecture(self.architecture, num_classes=classes, **self.changes)
        if self.resolution and hasattr(config, "image_size"):
            config = dataclasses.replace(config, image_size=(self.resolution, self.resolution))
        return config

    @property
    def card(self) -> Card:
        """What a card beside the published file would say."""
        prepared = {"resize_kind": self.resize_kind, "eval_resize": self.eval_resize}
        return Card(resolution=self.resolution, class_names=self.class_names, loss=self.loss, **prepared)

    @property
    def file(self) -> str:
        """Where the weights lie below the weights folder: `ViT-B/16` in `ViT-B_16.npz`, `vtab/...` in a folder."""
        return f"{re.sub(r'/(?=[0-9])', '_', self.name)}.npz"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes of ImageNet-1k or ImageNet-21k, in the order of the head; None for other data sets."""
        return imagenet_classes(self.num_classes) if self.url and not self.name.startswith("vtab/") else None


@functools.cache
def imagenet_classes(num_classes: int) -> tuple[str, ...] | None:
    """English names of ImageNet's 1,000 or ImageNet-21k's 21,843 classes; None for another number.

    Source: the lists of WordNet synsets and lemmas in timm (`timm/data/_info`); see scripts/class_names.py.
    """
    file = f"{num_classes}.txt"
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
    """{name: model} of the architectures whose names no published file has; of a BiT, the file's name says the data."""
    names = [name for name, config in architectures().items() if not isinstance(config, ResNetConfig)]
    source = "initial values; no weights were published under this name"
    return {name: PublishedModel(name, name, 1000, source) for name in names if name not in published_models()}


def described(name: str, found: re.Match, pattern: dict[str, Any]) -> PublishedModel:
    """The model whose file name, parsed by a pattern of the manifest, says how it was trained."""
    parts = found.groupdict()
    trained = parts["tuned"] or parts["upstream"]
    classes = pattern["classes"][trained]
    resolution = int(parts["resolution"] or 224)
    url = pattern["url"].format(file=parts["file"])
    architecture, prepared = pattern["architectures"][parts["variant"]], pattern["prepared"][trained]
    return PublishedModel(name, architecture, classes, pattern["source"], resolution, url, **prepared)
