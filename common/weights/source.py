"""Reading a model from a file of any spelling: what it is, and its parameters under canonical names."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.models import FAMILIES, ModelConfig, TwoTowersConfig, architecture_name
from common.models.cards import Card, parse_card
from common.models.families import parse_config, sizes, some
from common.models.family import Arrays, below
from common.system.errors import UserError
from common.weights import foreign, huggingface_config, keras_hub_config, open_clip_config, processors, timm_config
from common.weights.containers import RECORD, guarded, kind_of, open_container, read_json
from common.weights.containers.safetensors import INDEX
from common.weights.express import expressed, restore
from common.weights.recognise import Found, fields_of, recognise, shorten

UNPREPARED = "no file states how images are prepared"
TENSORFLOW = "tf_model.h5"
IN_FOLDERS = (  # of hubs, and of a run
    "model.safetensors", "model.safetensors.index.json", "weights.npz", "flax_model.msgpack", TENSORFLOW,
    "open_clip_model.safetensors", keras_hub_config.WEIGHTS,
)  # fmt: skip
ASKED = (
    "timm",
    "huggingface",
    "huggingface_v5",
    "huggingface_siglip2",
    "keras_hub",
)  # spellings whose files may want images in any way
FROM_HUBS = (".safetensors", INDEX, ".msgpack")  # what a config.json of timm or Hugging Face may lie beside


class Source(NamedTuple):
    """A model read from a file."""

    path: Path
    spelling: str
    config: ModelConfig
    arrays: Arrays  # empty where only the header was asked for
    card: Card
    assumed: list[str]  # fields that nothing told, with what the spelling's own code computes
    channels: int  # of the images that the stem takes
    unused: list[str]  # arrays that are no parameters of the model: a pooler, the state of an optimizer
    notes: list[str]  # what a person should know: how images are prepared otherwise than the files ask for


class Facts(NamedTuple):
    """The facts in the files beside the arrays, or in their metadata."""

    fields: dict[str, Any]
    recorded: ModelConfig | None = None
    card: Card = Card()
    notes: tuple[str, ...] = ()


def find_weights(path: str | Path) -> Path:
    """The file of arrays that a path means: itself, one that a folder holds, or a TensorFlow checkpoint's index.

    UserError for a folder without weights.
    """
    path = Path(path)
    if path.is_dir():
        there = next((path / name for name in IN_FOLDERS if (path / name).is_file()), None)
        if there:
            return there
        if (path / "recipe.json").is_file():
            raise UserError(f"The run {path} has not ended and has no weights.npz yet; continue it, or name a file.")
        advice = next((advice for name, advice in foreign.FOLDERS.items() if (path / name).exists()), "name a file")
        raise UserError(f"The folder {path} holds no {' or '.join(IN_FOLDERS)}; {advice}.")
    index = Path(f"{path}.index")  # its own tools name a checkpoint without any ending
    return index if not path.exists() and index.is_file() else path


def stated_model(weights: str) -> dict[str, str]:
    """{"model": the name that the card beside a run's weights states}, where there is one."""
    path = Path(weights) / "weights.npz" if Path(weights).is_dir() else Path(weights)
    if path.name != "weights.npz" or not card_path(path).is_file():
        return {}
    name = read_json(card_path(path)).get("model")
    return {"model": name} if isinstance(name, str) else {}


def read_model(
    path: str | Path, *, spelling: str | None = None, given: dict[str, Any] | None = None, values: bool = True,
    check: Callable[[ModelConfig], None] | None = None,
) -> Source:  # fmt: skip
    """The model in `path`. `given` are fields that the user states; without `values`, only the header is read.

    `check`, of a caller who knows which model it is, sees the configuration before any value is read.

    Raises UserError for a damaged file, one that fits no spelling or several, and tensors that are no finite numbers.
    """
    path = find_weights(path)
    with guarded(path, lambda: open_container(path)) as file:
        facts = read_facts(path, file.metadata)
        shapes = {name: array.shape for name, array in file.declared.items()}
        found = recognise(shapes, facts.fields | (given or {}), path, spelling)
        check_types({there: file.declared[there] for there in (*found.names.values(), *found.added.values())}, path)
        config, arrays = recorded_config(found, facts, given or {}, path), {}
        card, notes = completed(facts, found, config, path)
        if check:
            check(config)
        elif found.table.twin and spelling is None and facts.recorded is None:
            raise UserError(
                f"{path} has the arrays of {architecture_name(config) or some(config)} in the spelling {found.table.spelling} and of "
                f"{found.table.twin}, of which nothing tells them apart; if it is the former, say so with --from "
                f"{found.table.spelling}, or with the --model of a run."
            )
        if values:
            guarded(path, file.check_bytes)
            read = lambda there: native(file.get(there))
            published = guarded(path, lambda: {today: read(there) for today, there in found.names.items()})
            for today, there in found.added.items():
                published[today] = published[today] + guarded(path, lambda there=there: read(there))
                notes.append(
                    f"{path}: {there} is added to {found.names[today]}, as the original does with files of its age"
                )
            check_finite(published, path)
            there = expressed(config, found.table)[0]
            arrays = found.table.from_published(published, there, found.channels)
            arrays, config = restore(arrays, there, config)
            FAMILIES[type(config)].check_values(arrays, path)
    told = card, found.assumed, found.channels, found.unused, notes
    return Source(path, found.table.spelling, config, arrays, *told)


def declared(path: str | Path) -> Source:
    """The model that the header of `path` tells, whichever it is; no value is read. Raises UserError as `read_model`."""
    return read_model(path, values=False, check=lambda config: None)


def tower_of(source: Source, name: str) -> Source:
    """The tower called `name`, `image` or `text`, of an image-text model. UserError for a model without it."""
    tower = source.config.children.get(name) if isinstance(source.config, TwoTowersConfig) else None
    if tower is None:
        raise UserError(f"{source.path} holds {some(source.config)}, which has no tower for {name}s; name another.")
    card = dataclasses.replace(source.card, text=None) if name == "image" else source.card
    return source._replace(config=tower, arrays=below(source.arrays, name), card=card)


def native(array: np.ndarray) -> np.ndarray:
    """The array in the byte order of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_types(declared: Arrays, path: Path) -> None:
    """Raise UserError for arrays that are not floating-point."""
    bad = [name for name, array in declared.items() if array.dtype.kind != "f"]
    if bad:
        raise UserError(
            f"{path} holds tensors that are not floating-point ({shorten(bad)}); download or train it again."
        )


def check_finite(arrays: Arrays, path: Path) -> None:
    """Raise UserError for arrays that hold NaN or infinity."""
    bad = [name for name, array in arrays.items() if not is_finite(array)]
    if bad:
        raise UserError(f"{path} holds tensors that are not finite ({shorten(bad)}); download or train it again.")


def is_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite: a finite sum of squares proves it without another array."""
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(flat.dot(flat)) or np.isfinite(flat).all())


# --- what files say beside their arrays


def card_path(weights_file: Path) -> Path:
    """The card beside a weights file."""
    return weights_file.with_name(card_name(weights_file))


def card_name(weights_file: Path) -> str:
    """The path of the card beside a weights file: `card.json` for a run's, `NAME.json` for `NAME.npz`."""
    return "card.json" if weights_file.stem == "weights" else f"{weights_file.stem}.json"


def read_facts(path: Path, metadata: dict[str, str]) -> Facts:
    """The facts in a file's metadata, in the config.json of its folder, or in its card: the first of these that exists.

    UserError where that is broken.
    """
    if RECORD in metadata:
        try:
            record = json.loads(metadata[RECORD])
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} holds a record of its model that is no JSON ({error}); convert it again."
            ) from error
        return recorded_facts(record, path)
    is_from_hub = kind_of(path) in FROM_HUBS or path.name in (TENSORFLOW, keras_hub_config.WEIGHTS)
    for name in (
        (open_clip_config.NAME, "config.json")
        if path.name.startswith("open_clip")
        else ("config.json", open_clip_config.NAME)
    ):
        if is_from_hub and (path.parent / name).is_file():
            return foreign_facts(path.parent / name)
    card = card_path(path)
    if card.is_file():
        return recorded_facts(read_json(card), card)
    return Facts({})


def recorded_facts(record: Any, where: Path) -> Facts:
    """The facts in a record or a card of ours. UserError where it is broken."""
    if not isinstance(record, dict):
        raise UserError(f"{where} holds a record of its model that is no object; convert it again.")
    card = parse_card(record, where)
    if "config" not in record:
        known = ("gelu", "layer_norm_epsilon")  # cards of runs without a configuration are BiT's
        return Facts({name: record[name] for name in known if name in record}, None, card)
    config = parse_config(record["config"], where)
    return Facts(fields_of(config), config, card)


def foreign_facts(path: Path) -> Facts:
    """The facts in a config file of timm, Hugging Face or open_clip. UserError where it is none."""
    config, processor = read_json(path), path.with_name("preprocessor_config.json")
    told = read_json(processor) if processor.is_file() else None
    if (
        told is None and path.with_name("processor_config.json").is_file()
    ):  # of images and texts, as version 5 saves them
        processor = path.with_name("processor_config.json")
        told = read_json(processor).get("image_processor")
    try:
        if keras_hub_config.is_hub(config):
            task, converter = (read_json(one) if one.is_file() else None for one in keras_hub_config.beside(path))
            fields, told = keras_hub_config.read_config(config, task), converter
            facts, notes = keras_hub_config.read_converter(converter) if converter else ({}, [])
        elif path.name == open_clip_config.NAME:
            fields, (facts, notes) = open_clip_config.read_config(config)
        elif "model_type" in config:
            fields = huggingface_config.read_config(config)
            told = told if config["model_type"] in processors.OF_A_MODEL else None
            facts, notes = processors.read_huggingface(told, config["model_type"]) if told else ({}, [])
        else:
            fields, (facts, notes) = timm_config.read_config(config), processors.read_timm(config)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise UserError(
            f"{path} is no {path.name} of {'open_clip' if path.name == open_clip_config.NAME else 'timm, Hugging Face or KerasHub'} "
            f"({error!r}); restore or remove it."
        ) from error
    facts |= {name: fields.pop(name) for name in ("class_names", "loss") if name in fields}
    return Facts(fields, None, parse_card(facts, processor if told else path), tuple(notes))


def completed(facts: Facts, found: Found, config: ModelConfig, path: Path) -> tuple[Card, list[str]]:
    """(what files say, and else the spelling's table, notes).

    UserError where files contradict the arrays: not as many names as classes, or another pooling.
    """
    pooling = config.pooling
    told = facts.fields.get("pooling", pooling)
    if facts.recorded is None and timm_config.POOLED.get(told, told) != timm_config.POOLED.get(pooling, pooling):
        raise UserError(
            f"{path} has {'a' if pooling == 'token' else 'no'} class token and its config.json has global_pool "
            f"{timm_config.POOLED[facts.fields['pooling']]!r}, which is not computed of such a model (only "
            f"{timm_config.POOLED.get(pooling)!r}); choose another file."
        )
    card, names = facts.card, facts.card.class_names
    notes = [f"{path}: {note}" for note in facts.notes]
    if names is not None and config.num_classes is not None and len(names) != config.num_classes:
        raise UserError(
            f"{path} has a head of {config.num_classes:,} classes and beside it stand {len(names):,} class names; give "
            "as many names as classes, or none."
        )
    if found.table.prepares and card.mean is None:
        prepared, note = found.table.prepares(config)
        return card.over(prepared), [*notes, f"{path}: {note}"]
    if found.table.spelling in ASKED and card.mean is None and facts.recorded is None and config.image_kernel:
        notes.append(f"{path}: {UNPREPARED}, so they are squashed and lie in [-1, 1]")
    return card, notes


def recorded_config(found: Found, facts: Facts, given: dict[str, Any], path: Path) -> ModelConfig:
    """The configuration of a file: the recorded one, changed by what the user states, or else the recognised one.

    Raises UserError where arrays and record contradict each other.
    """
    if facts.recorded is None:
        return found.config
    recorded = changed(facts.recorded, given)
    if type(recorded) is type(found.config) and counts(recorded) == counts(found.config):
        there = expressed(recorded, found.table)[0]
        if there.parameter_shapes() == found.config.parameter_shapes():
            return recorded
    raise UserError(
        f"{path} holds {some(found.config)} and the record beside its arrays is of another model; remove the "
        "record (the card, or the file's metadata)."
    )


def changed(config: ModelConfig, given: dict[str, Any]) -> ModelConfig:
    """A configuration with what a user states of it and of the models within it."""
    fields = {item.name for item in dataclasses.fields(config)}
    children = {name: changed(child, given) for name, child in config.children.items()}
    return dataclasses.replace(config, **children, **{name: given[name] for name in given if name in fields})


def counts(config: ModelConfig) -> dict[str, Any]:
    """Numbers of blocks, to compare before any list of names is made."""
    return {name: value for name, value in sizes(config).items() if name.split()[-1] in ("depth", "num_units")}
