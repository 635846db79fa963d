"""What a model starts with: the file that is meant, and its values, adapted, or initial ones."""

import dataclasses
import logging
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.models import PACKAGED_WEIGHTS, DecoderConfig, ModelConfig, PublishedModel, TwoTowersConfig, head_classes
from common.models.cards import Card
from common.models.family import Arrays, Say
from common.models.initial import initial_parameters
from common.system import remote
from common.system.errors import UserError
from common.weights.adapt import adapt, check_same_model
from common.weights.recognise import shorten
from common.weights.source import UNPREPARED, Source, card_name, declared, find_weights, read_model, tower_of

log = logging.getLogger(__name__)
BESIDE = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    "task.json",
    "task.weights.h5",
    "image_converter.json",
)  # what hubs keep there


class Start(NamedTuple):
    """What a model starts with."""

    config: ModelConfig
    arrays: Arrays
    card: Card


def find_file(model: PublishedModel, folder: str | Path, flag: str = "--weights") -> Path:
    """Where the published file of `model` lies: below `folder`, or shipped with the project.

    Raises UserError with the command that fetches it; `flag` is what else names a file.
    """
    if remote.is_remote(folder):
        names = remote.RemoteFolder(str(folder)).sizes()
        file = next((name for name in (model.file, f"{model.name}.h5") if name in names), None)
        if file:
            return remote.local_file(f"{folder}/{file}", card_name(Path(file)))
    for candidate in (Path(folder) / model.file, Path(folder) / f"{model.name}.h5", PACKAGED_WEIGHTS / model.file):
        if candidate.is_file():
            return candidate
    if model.url is None:
        none = ", or --weights none" if flag == "--weights" else ""
        raise UserError(f"No weights are listed for {model.name}; give a file with {flag}{none}.")
    elsewhere = f"--dir {shlex.quote(str(folder))} " if Path(folder) != Path("weights") else ""
    raise UserError(
        f"{Path(folder) / model.file} is missing; fetch it with `python -m common.download {elsewhere}{model.name}`, "
        f"or name a file with {flag}."
    )


def choose_file(model: PublishedModel, weights: str | Path | None, folder: str | Path = "weights") -> Path | None:
    """The file that `weights` means: its path, or that of a run; "pretrained": the published one; None or "none": no file."""
    if weights == "pretrained":
        return find_file(model, folder)
    if weights in (None, "none"):
        return None
    if remote.is_remote(weights) and not Path(weights).suffix:  # the folder of a run
        weights = f"{str(weights).rstrip('/')}/weights.npz"
    return find_weights(remote.local_file(weights, card_name(Path(weights))))


def starting_values(
    model: PublishedModel, path: Path | None, num_classes: int | None = None, seed: int = 0, *,
    image_size: tuple[int, int] | None = None, patch_size: int | None = None, head_bias: float = 0.0,
    pretrained: bool = False, say: Say = log.info,
) -> Start:  # fmt: skip
    """What `model` starts with: the values in `path`, or initial ones drawn with `seed` where there is no file.

    `num_classes` and `image_size` (height and width in pixels, for models that are made for one) default to the
    file's (no head where it has none), or the published ones. Another number of classes gets a head of zeros, 0 none,
    another size resized positions; `patch_size`, the side in pixels of a ViT's patches, a resized kernel, too, but in a
    FlexiViT, which resizes them itself. `say` is called with a line on each such change. `head_bias` is the bias of a new
    head. The card says what the files tell, how texts become numbers also by the model's name, and of the `pretrained`
    file, what the manifest does.
    """
    size = image_size if image_size and model.config().image_size else None
    if path is None:
        config = sized(model.config(num_classes), size).with_side(patch_size)
        return Start(config, with_head_bias(initial_parameters(seed, config), head_bias), Card(text=model.text))
    heard = say if model.usual.mean is None else lambda line: UNPREPARED in line or say(line)  # which the name tells
    source = read_source(path, asked_of(model, path), heard, resizes=patch_size is not None)
    found = source.config.as_published(model.config())
    config = sized(found.with_classes(head_classes(num_classes, found.num_classes)), size).with_side(patch_size)
    arrays = adapt(source.arrays, source.config, config, say)
    is_new = source.config.num_classes != config.num_classes
    card = source.card.over(model.card if pretrained else model.usual)
    if is_new:
        return Start(config, with_head_bias(arrays, head_bias), dataclasses.replace(card, class_names=None))
    return Start(config, arrays, card)


def asked_of(model: PublishedModel, path: Path) -> ModelConfig:
    """What a file is to have for `model`: of one that writes codes, as many as it has, since another model decides on them."""
    config = model.config()
    found = declared(path).config if isinstance(config, DecoderConfig) and model.text is None else None
    if not isinstance(found, DecoderConfig):
        return config
    return dataclasses.replace(config, vocabulary=found.vocabulary, length=found.length)


def of_one_size(start: Start, say: Say = log.info) -> Start:
    """A FlexiViT as the ViT that it is at the size of its patches: its kernel and positions are resized once."""
    config = start.config.fixed()
    return (
        start
        if config == start.config
        else start._replace(config=config, arrays=adapt(start.arrays, start.config, config, say))
    )


def sized(config: ModelConfig, image_size: tuple[int, int] | None) -> ModelConfig:
    """The model for images of this size, or as it is."""
    return config.at(image_size) if image_size else config


def with_head_bias(arrays: Arrays, value: float) -> Arrays:
    """`arrays` with another bias of the head, if there is a head."""
    heads = ("head/bias", "head_dist/bias")
    return {name: np.full_like(array, value) if name in heads else array for name, array in arrays.items()}


def read_source(path: str | Path, config: ModelConfig, say: Say, *, resizes: bool = False) -> Source:
    """The model in `path`, which has the family and the sizes of `config`, but for the patches where it `resizes` them.

    Raises UserError.
    """
    path = remote.local_file(path, card_name(Path(path)), *BESIDE)
    source = read_model(path, check=lambda found: check_same_model(meant(found, config, resizes=resizes), config, path))
    if name := tower_for(source.config, config):
        say(f"{path} holds an image-text model: its tower for {name}s is read, without a projection.")
        source = alone(source, name)
    for line in source.notes:
        say(line)
    if source.unused:
        say(f"The model has no such parameters, so they are not read: {shorten(source.unused)}.")
    return source


def tower_for(found: ModelConfig, wanted: ModelConfig) -> str | None:
    """Which tower of an image-text model is meant where a model of another family is `wanted`; None: the whole."""
    if not isinstance(found, TwoTowersConfig) or isinstance(wanted, TwoTowersConfig):
        return None
    return next((name for name, child in found.children.items() if type(child) is type(wanted)), None)


def meant(found: ModelConfig, wanted: ModelConfig, *, resizes: bool = False) -> ModelConfig:
    """What a file has for a `wanted` model, which `resizes` its patches where they have another size."""
    name = tower_for(found, wanted)
    return (getattr(found, name) if name else found).like(wanted, resizes=resizes)


def alone(source: Source, name: str) -> Source:
    """One tower of an image-text model, without its projection, which is no classifier."""
    found = tower_of(source, name)
    fields = {"num_classes": None} | ({"head_bias": True} if hasattr(found.config, "head_bias") else {})
    config = dataclasses.replace(found.config, **fields)
    return found._replace(config=config, arrays={key: found.arrays[key] for key in config.parameter_shapes()})


def read_weights(path: str | Path, config: ModelConfig, say: Say = log.info) -> Arrays:
    """The arrays of `read_start`."""
    return read_start(path, config, say).arrays


def read_start(path: str | Path, config: ModelConfig, say: Say = log.info) -> Start:
    """The model in `path`, in any spelling, under canonical names; the head has the file's number of classes.

    Positions are resized to those of `config`. Raises UserError when the file is damaged, or holds missing, unexpected,
    misshapen or non-finite tensors.
    """
    source = read_source(path, config, say)
    wanted = config.with_classes(source.config.num_classes)
    return Start(wanted, adapt(source.arrays, source.config, wanted, say), source.card)
