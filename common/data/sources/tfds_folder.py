"""Folders that TensorFlow Datasets (TFDS) prepared: where they lie, and what their descriptions hold.

A prepared folder explains itself: `dataset_info.json` lists splits and shards, `features.json` the features,
`label.labels.txt` the class names.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.data.lists import lines
from common.data.sources.array_record import Shard
from common.system import remote
from common.system.errors import UserError, nearest
from common.system.files import read_regular

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # where dataset_info.json names none
VERSION = re.compile(r"\d+\.\d+\.\d+")


class Part(NamedTuple):
    """`count` examples of an official split, or all that follow, from `percent` of it on: as TFDS cuts, by their order."""

    split: str
    percent: int = 0
    count: int | None = None


def find_prepared(name: str, tfds_data_dir: str | Path | None = None) -> Path:
    """The folder of the dataset `NAME`, `NAME/CONFIG`, `NAME:VERSION` or `NAME/CONFIG:VERSION`; UserError without one."""
    return _find(name, data_folder(tfds_data_dir, re.split("[:/]", name)[0]))


@contextlib.contextmanager
def described(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(features, dataset_info.json) of a prepared folder; what is missing in them becomes a UserError."""
    info, features = _read_json(folder / "dataset_info.json"), _read_json(folder / "features.json")
    _check_format(info, folder)
    try:
        yield features["featuresDict"]["features"], info
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} describes its data in an unknown way ({error!r}); prepare it with a newer TFDS."
        ) from error


def data_folder(tfds_data_dir: str | Path | None = None, part: str = "") -> Path:
    """The folder of prepared sets: `tfds_data_dir`, else the variable TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Of a `gs://` or `s3://` address, `part` is copied to this machine.
    """
    folder = tfds_data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return remote.local_folder(folder, part).expanduser()


def _find(name: str, root: Path) -> Path:
    """The folder of one version of one configuration."""
    path, _, version = name.partition(":")
    parent = root / path
    if path and not _versions(parent):
        configs = [entry.name for entry in _folders(parent) if _versions(entry)]
        if len(configs) > 1:
            raise UserError(
                f"tfds:{path} has the configurations {', '.join(configs)}; give one as tfds:{path}/{configs[0]}."
            )
        parent = parent / configs[0] if configs else parent
    versions = _versions(parent)
    if version and version not in versions and versions:
        raise UserError(
            f"tfds:{path} is prepared in the version {', '.join(versions)}, not {version}; give one of these."
        )
    if not versions:
        near = nearest(path, [entry.name for entry in _folders(root)])
        raise UserError(
            f"No prepared TFDS dataset lies in {parent}{near} Prepare it with `tfds build {path} "
            f"--file_format=array_record --data_dir={root}`, or say with --tfds_data_dir where it is."
        )
    return parent / (version or versions[-1])


def _versions(parent: Path) -> list[str]:
    """The prepared versions in `parent`, oldest first."""
    found = [e.name for e in _folders(parent) if VERSION.fullmatch(e.name) and (e / "dataset_info.json").is_file()]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the dataset again with a current TFDS.") from error


def _check_format(info: dict[str, Any], folder: Path) -> None:
    formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
    if "array_record" not in formats:
        raise UserError(
            f"{folder} holds {formats[0]} files, expected array_record; convert them with `pip install apache-beam` "
            f"and `tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record`."
        )


def read_class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    """The lines of the file, or numbers where TFDS has no names.

    UserError where it names another number of classes.
    """
    if not path.is_file():
        return tuple(str(label) for label in range(num_classes))
    names = tuple(line for _, line in lines(path))
    if len(names) != num_classes:
        raise UserError(f"{path} names {len(names)} classes, expected {num_classes}; prepare the dataset again.")
    return names


def shards_of(info: dict[str, Any], split: dict[str, Any], folder: Path) -> list[Shard]:
    """The files of a split, from its row in dataset_info.json. UserError where one is missing."""
    lengths = [int(length) for length in split.get("shardLengths", [])]
    shards = []
    for index, length in enumerate(lengths):
        number, count = f"{index:05d}", f"{len(lengths):05d}"
        file = (split.get("filepathTemplate") or TEMPLATE).format(
            DATASET=info["name"], SPLIT=split["name"], FILEFORMAT="array_record",
            SHARD_INDEX=number, NUM_SHARDS=count, SHARD_X_OF_Y=f"{number}-of-{count}",
        )  # fmt: skip
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}, which its dataset_info.json lists; prepare the dataset again.")
        shards.append(Shard(str(folder / file), length))
    return shards


def shards_of_part(info: dict[str, Any], rows: dict[str, dict], part: Part, folder: Path) -> list[Shard]:
    """The shards, or pieces of them, that hold a part. UserError where its split is missing or too short."""
    if part.split not in rows:
        raise UserError(f"{folder} has the splits {', '.join(rows)}, expected {part.split}, too; prepare it again.")
    shards = shards_of(info, rows[part.split], folder)
    total = sum(shard.take for shard in shards)
    first = part.percent * total // 100
    last = total if part.count is None else first + part.count
    if not first < last <= total:
        raise UserError(
            f"The split {part.split} of {folder} holds {total:,} examples, expected at least {max(last, 1):,}; prepare it again."
        )
    pieces, start = [], 0
    for shard in shards:
        low, high = max(first, start), min(last, start + shard.take)
        if low < high:
            pieces.append(Shard(shard.filename, high - low, low - start))
        start += shard.take
    return pieces
