"""Read and write weights as canonical arrays {name: numpy array}, in every spelling that circulates (common/weights/spellings/)."""

import contextlib
import dataclasses
import json
import logging
import shlex
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from common.models import PACKAGED_WEIGHTS, ModelConfig, PublishedModel, ResNetConfig, ResNetV1Config, head_classes
from common.models.cards import FACTS, Card
from common.models.initial import initial_parameters
from common.system import remote as storage
from common.system.errors import UserError
from common.system.files import write_json
from common.weights import containers
from common.weights.adapt import Say, adapt, check_same_model
from common.weights.express import express, expressed
from common.weights.recognise import choose_table, shorten
from common.weights.source import Source, card_name, card_path, dump_config, find_weights, read_model

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class Start(NamedTuple):
    """What a model starts with."""

    config: ModelConfig
    arrays: Arrays
    card: Card


log = logging.getLogger(__name__)


def find_file(model: PublishedModel, folder: str | Path) -> Path:
    """Where the published file of `model` lies: below `folder`, or shipped with the project.

    Raises UserError with the command that fetches it.
    """
    if storage.is_remote(folder):
        names = storage.RemoteFolder(str(folder)).sizes()
        file = next((name for name in (model.file, f"{model.name}.h5") if name in names), None)
        if file:
            return storage.local_file(f"{folder}/{file}", card_name(Path(file)))
    for candidate in (Path(folder) / model.file, Path(folder) / f"{model.name}.h5", PACKAGED_WEIGHTS / model.file):
        if candidate.is_file():
            return candidate
    if model.url is None:
        raise UserError(f"No weights were published for {model.name}; give a file with --weights, or --weights none.")
    elsewhere = f"--dir {shlex.quote(str(folder))} " if Path(folder) != Path("weights") else ""
    raise UserError(
        f"{Path(folder) / model.file} is missing; fetch it with `python -m common.download {elsewhere}{model.name}`, "
        "or name a file with --weights."
    )


def choose_file(model: PublishedModel, weights: str | Path | None, folder: str | Path = "weights") -> Path | None:
    """The file that `weights` means: its path, or that of a run; "pretrained": the published one; None or "none": no file."""
    if weights == "pretrained":
        return find_file(model, folder)
    if weights in (None, "none"):
        return None
    if storage.is_remote(weights) and not Path(weights).suffix:  # the folder of a run
        weights = f"{str(weights).rstrip('/')}/weights.npz"
    return find_weights(storage.local_file(weights, card_name(Path(weights))))


def starting_values(
    model: PublishedModel, path: Path | None, num_classes: int | None = None, seed: int = 0, *,
    image_size: tuple[int, int] | None = None, head_bias: float = 0.0, pretrained: bool = False, say: Say = log.info,
) -> Start:  # fmt: skip
    """What `model` starts with: the values in `path`, or initial ones drawn with `seed` where there is no file.

    `num_classes` and `image_size` (height and width in pixels, for models that are made for one) default to the
    file's (no head where it has none), or the published ones. Another number of classes gets a head of zeros, 0 none,
    another size resized positions; `say` is called with a line on each such change. `head_bias` is the bias of a new
    head. The card says what the files tell, and of the `pretrained` one, what the manifest does.
    """
    changes = {"image_size": image_size} if image_size and hasattr(model.config(), "image_size") else {}
    if path is None:
        config = dataclasses.replace(model.config(num_classes), **changes)
        return Start(config, with_head_bias(initial_parameters(seed, config), head_bias), Card())
    source = read_source(path, model.config(), say)
    changes |= {"num_classes": head_classes(num_classes, source.config.num_classes)}
    config = dataclasses.replace(source.config, **changes)
    arrays = adapt(source.arrays, source.config, config, say)
    is_new = source.config.num_classes != config.num_classes
    card = source.card.over(model.card) if pretrained else source.card
    if is_new:
        return Start(config, with_head_bias(arrays, head_bias), dataclasses.replace(card, class_names=None))
    return Start(config, arrays, card)


def with_head_bias(arrays: Arrays, value: float) -> Arrays:
    """`arrays` with another bias of the head, if there is a head."""
    return {name: np.full_like(array, value) if name == "head/bias" else array for name, array in arrays.items()}


def read_source(path: str | Path, config: ModelConfig, say: Say) -> Source:
    """The model in `path`, which has the family and the sizes of `config`. Raises UserError."""
    path = storage.local_file(path, card_name(Path(path)), "config.json", "preprocessor_config.json")
    source = read_model(path, check=lambda found: check_same_model(found, config, path))
    for line in source.notes:
        say(line)
    if source.unused:
        say(f"The model has no such parameters, so they are not read: {shorten(source.unused)}.")
    return source


def read_weights(path: str | Path, config: ModelConfig, say: Say = log.info) -> Arrays:
    """The arrays of `read_start`."""
    return read_start(path, config, say).arrays


def read_start(path: str | Path, config: ModelConfig, say: Say = log.info) -> Start:
    """The model in `path`, in any spelling, under canonical names; the head has the file's number of classes.

    Positions are resized to those of `config`. Raises UserError when the file is damaged, or holds missing, unexpected,
    misshapen or non-finite tensors.
    """
    source = read_source(path, config, say)
    wanted = dataclasses.replace(config, num_classes=source.config.num_classes)
    return Start(wanted, adapt(source.arrays, source.config, wanted, say), source.card)


def write_weights(path: str | Path, arrays: Arrays, config: ModelConfig, card: Card | None = None) -> None:
    """Write canonical `arrays` and read them back: `.npz` in the published layout of the family, BiT's `.h5` in Keras's,
    else in our own names.

    What a layout cannot say of a model (GELU, epsilons), and the facts of its card, go into the record within the file, or
    of an `.npz` or BiT's `.h5` into the card beside it, in place of what that one told; without a `card`, its facts stay. Names of other
    classes than the head has, which a user has replaced, are left out.
    """
    path, card = Path(path), card and card.of_classes(config.num_classes)
    spelling = published_spelling(config, path.suffix)
    table = choose_table(spelling, config)
    there, _ = expressed(config, table)
    record = (card.facts() if card else {}) | {"config": dump_config(config)}
    published = table.to_published(dict(express(arrays, config, there)), there)
    keras = config if spelling == "big_transfer_h5" else None
    containers.write(path, published, {"format": "pt", containers.RECORD: json.dumps(record)}, keras)
    beside = card_path(path)
    if (path.suffix == ".npz" or keras) and (len(record) > 1 or needs_card(config) or card and beside.is_file()):
        facts = containers.read_json(beside) if beside.is_file() else {}
        kept = {name: value for name, value in facts.items() if card is None or name not in FACTS}
        write_json(beside, kept | record)


def published_spelling(config: ModelConfig, suffix: str) -> str:
    """The spelling in which a family's files were published, for a kind of file. UserError for an unknown kind."""
    if suffix not in containers.SUFFIXES:
        raise UserError(
            f"Cannot write weights as {suffix or 'a'} file: expected a name that ends in {containers.KNOWN}."
        )
    if suffix != ".npz":
        return "big_transfer_h5" if suffix != ".safetensors" and isinstance(config, ResNetConfig) else "ours"
    choices = {ResNetConfig: ("big_transfer",), ResNetV1Config: ("big_vision",)}
    for spelling in choices.get(type(config), ("vision_transformer", "big_vision")):
        with contextlib.suppress(UserError):
            if not expressed(config, choose_table(spelling, config))[1]:
                return spelling
    return "ours"


def needs_card(config: ModelConfig) -> bool:
    """Whether names and shapes do not tell everything about a model: they do of a BiT of the paper."""
    is_bit = isinstance(config, ResNetConfig)
    return not is_bit or config != ResNetConfig(config.num_units, config.width_factor, config.num_classes)


def with_classes(config: ResNetConfig, num_classes: int) -> ResNetConfig:
    """`config` with another head."""
    return dataclasses.replace(config, num_classes=num_classes)


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names start with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


def check_shapes(arrays: Arrays, expected: dict[str, tuple[int, ...]], where: str | Path) -> None:
    """Raise UserError that lists missing, unexpected and misshapen tensors."""
    listed = misfit({name: array.shape for name, array in arrays.items()}, expected)
    if listed:
        raise UserError(f"{where} does not fit the model ({listed}); choose the --model that the file was made for.")


def misfit(found: Shapes, expected: Shapes) -> str:
    """What is missing, unexpected and misshapen among `found`, as a person reads it; nothing where all is right."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {found[name]} instead of {expected[name]}"
            for name in expected
            if name in found and found[name] != expected[name]
        ],
    }
    return "; ".join(f"{kind}: {shorten(names)}" for kind, names in problems.items() if names)


def fitted_config(config: ModelConfig, shapes: Shapes) -> ModelConfig:
    """`config` with as many classes as the head has of a model with these shapes: its user may have replaced it.

    Raises UserError where anything else of the model is not as `config` says.
    """
    head = shapes.get("head/kernel") or shapes.get("head/bias") or (None,)
    fitted = dataclasses.replace(config, num_classes=head[-1])
    listed = misfit(shapes, fitted.parameter_shapes())
    if listed:
        raise UserError(
            f"The model's parameters are not those of its configuration ({listed}); a file holds nothing but these, and a "
            "dense layer with a bias for any number of classes as `head`: put back what was replaced, merge what was added."
        )
    return fitted


def refuse_unbuilt(kind: str) -> NoReturn:
    """Raise UserError for a layer of a `kind` that gets its parameters when it first sees something."""
    raise UserError(
        f"A {kind} of the model has no values yet; call the model on images once before you save or load it."
    )


def refuse_wrapper(kind: str, found: object) -> NoReturn:
    """Raise UserError for what an engine was given, of a `kind`, as a model: it holds others' parameters, or no model."""
    what = (
        f"holds more parameters than the {type(found).__name__} within it" if found else "is no model of this project"
    )
    raise UserError(
        f"A {kind} {what}; give what `create_model` returned (of JAX's state, `nnx.merge(graphdef, state)`)."
    )
