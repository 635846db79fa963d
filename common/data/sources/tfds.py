"""Sets that TensorFlow Datasets (TFDS) prepared in ArrayRecord files, read without TensorFlow and without TFDS.

A prepared folder explains itself: `dataset_info.json` lists splits and shards, `features.json` the features,
`label.labels.txt` the class names; a record is a `tf.train.Example`, three small protocol-buffer messages. Reading it
here takes no second of imports and leaves images encoded; `tensorflow_datasets` 4.9 would break on protobuf 7.
Source: https://www.tensorflow.org/datasets/external_tfrecord and https://protobuf.dev/programming-guides/encoding
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.lists import lines
from common.data.sources import Places
from common.data.sources.index import Arrays, Watch, indexed
from common.data.split import Dataset, MultiLabels, Split
from common.system import remote as storage
from common.system.errors import UserError, nearest, reason
from common.system.files import read_regular
from common.system.progress import Count
from common.system.protobuf import fields, varint

SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # where dataset_info.json names none
CHUNK = 256  # records read at once while labels are collected
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records, as `ArrayRecordDataSource` asks for it; it opens the file when the first record is read."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """The methods of a shard that array_record calls."""
        return self.take


def open_tfds(name: str, places: Places, *, label: str | None = None, order_by: Sequence[str] = ()) -> Dataset:
    """The set `NAME`, `NAME/CONFIG`, `NAME:VERSION` or `NAME/CONFIG:VERSION`, the newest by default.

    Examples come in the order of the files, or by the features `order_by`. The label is the feature `label`, or the one
    that is a class, or where none is a sequence of classes. Labels are collected in one pass that decodes no image (50,000 records of
    CIFAR-10 in about 3 s) and kept: see index.py. Splits without labels are left out. Raises UserError when the folder is
    missing, in another format, or damaged.
    """
    purpose = (f"-{label}" if label else "") + (f"-by-{'-'.join(order_by)}" if order_by else "")
    folder = find_prepared(name, places.tfds_data_dir)
    with described(folder) as (features, info):
        image = _feature(features, "image", "image", folder)
        label, description, several = _label(features if label is None else {label: features[label]}, folder)
        class_names = read_class_names(folder / f"{label}.labels.txt", int(description["numClasses"]))
        shards = {SPLITS[row["name"]]: _shards(info, row, folder) for row in info["splits"] if row["name"] in SPLITS}
    files = [Path(shard.filename) for split in shards.values() for shard in split]
    records = {split: _records(shards[split]) for split in shards if any(shard.take for shard in shards[split])}

    def scan(_: Watch) -> Arrays:
        where = {split: f"{split} of {folder}" for split in records}
        found = {split: _scan(source, label, order_by, several, where[split]) for split, source in records.items()}
        return {f"{split}/{name}": array for split, arrays in found.items() for name, array in arrays.items()}

    descriptions = [folder / "dataset_info.json", folder / "features.json"]
    arrays = indexed(folder, [*descriptions, *files], scan, purpose)
    splits = {}
    for split, source in records.items():
        classes, first, where = arrays[f"{split}/classes"], arrays[f"{split}/first"], f"{split} of {folder}"
        if not classes.size or classes.min() < 0:  # how TFDS marks examples whose labels are not public
            continue
        if classes.max() >= len(class_names):
            raise UserError(
                f"The split {where} holds the label {classes.max()}, expected less than {len(class_names)}; "
                "prepare it again."
            )
        labels = MultiLabels(classes, first, len(class_names)) if several else classes
        opened = _split(source, image, labels, where)
        splits[split] = opened.take(arrays[f"{split}/order"]) if order_by else opened
    if not splits:
        raise UserError(
            f"{folder} has no labelled split, expected train, validation or test; choose another dataset or make an image "
            "folder of it."
        )
    return Dataset(name, class_names, splits)


class Part(NamedTuple):
    """`count` examples of an official split, or all that follow, from `percent` of it on: as TFDS cuts, by their order."""

    split: str
    percent: int = 0
    count: int | None = None


class Features(NamedTuple):
    """The parts of an example's label."""

    keys: tuple[str, ...]  # features of an example
    label: Callable[..., int]  # the values of each of them -> class
    num_classes: int
    image: str = "image"


def open_parts(folder: Path, splits: dict[str, Sequence[Part]], features: Features, purpose: str) -> dict[str, Split]:
    """Splits of a prepared folder, each made of parts of the official ones.

    Only their records are read, once: labels are kept under the name `purpose`. Raises UserError when an official split is
    too small, or a label is no class.
    """
    with described(folder) as (_, info):
        rows = {row["name"]: row for row in info["splits"]}
        parts = {name: [s for part in own for s in _cut(info, rows, part, folder)] for name, own in splits.items()}
    records = {name: _records(own) for name, own in parts.items()}
    where = {name: f"{name} of {folder}" for name in records}

    def scan(_: Watch) -> Arrays:
        return {name: _scan_labels(source, features, where[name]) for name, source in records.items()}

    files = dict.fromkeys(Path(shard.filename) for own in parts.values() for shard in own)
    arrays = indexed(folder, [folder / "dataset_info.json", folder / "features.json", *files], scan, f"-{purpose}")
    return {name: _split(records[name], features.image, arrays[name], where[name]) for name in records}


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
    return storage.local_folder(folder, part).expanduser()


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


def _feature(features: dict[str, Any], kind: str, key: str, folder: Path) -> str:
    """The feature of this kind that is called `key`, or else the only one of this kind."""
    found = [name for name, feature in features.items() if kind in feature]
    if key in found:
        return key
    if len(found) != 1:
        raise UserError(
            f"{folder} has {len(found)} features of the kind {kind} ({', '.join(found)}), expected one or one called "
            f"{key!r}; choose a classification dataset."
        )
    return found[0]


def _label(features: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any], bool]:
    """(feature, description of its classes, whether it holds several) of the label."""
    several = {name: feature["sequence"]["feature"] for name, feature in features.items() if "sequence" in feature}
    several = {name: feature for name, feature in several.items() if "classLabel" in feature}
    if several and not any("classLabel" in feature for feature in features.values()):
        label = _feature(several, "classLabel", "labels", folder)
        return label, several[label]["classLabel"], True
    label = _feature(features, "classLabel", "label", folder)
    return label, features[label]["classLabel"], False


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


def _shards(info: dict[str, Any], split: dict[str, Any], folder: Path) -> list[Shard]:
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


def _cut(info: dict[str, Any], rows: dict[str, dict], part: Part, folder: Path) -> list[Shard]:
    """The shards, or pieces of them, that hold a part."""
    if part.split not in rows:
        raise UserError(f"{folder} has the splits {', '.join(rows)}, expected {part.split}, too; prepare it again.")
    shards = _shards(info, rows[part.split], folder)
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


def _records(shards: list[Shard]) -> Sequence[bytes]:
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise UserError(
            "TFDS datasets need the package array_record; install it with `pip install array_record`."
        ) from error
    return ArrayRecordDataSource(shards)


def _scan(records: Sequence[bytes], label: str, order_by: Sequence[str], several: bool, where: str) -> Arrays:
    """The classes of record i, classes[first[i] : first[i + 1]], and the records' `order` by features, if it is not theirs."""
    classes, first, sorting_keys, keys = [], [0], [], tuple(dict.fromkeys((label, *order_by)))
    with Count(f"indexing {where}", len(records), "records") as count:
        for values in _collect(records, keys, where):
            own = values[0]
            if len(own) != 1 and not several or not all(isinstance(value, int) and abs(value) < 2**31 for value in own):
                raise UserError(f"Record {len(sorting_keys)} of {where} holds no label but {own}; prepare it again.")
            classes += own
            first.append(len(classes))
            sorting_keys.append([values[keys.index(name)] for name in order_by])
            count.advance(1)
    arrays = {"classes": np.array(classes, np.int32), "first": np.array(first, np.int64)}
    if order_by:
        arrays["order"] = np.array(sorted(range(len(records)), key=lambda i: sorting_keys[i]), np.int64)
    return arrays


def _scan_labels(records: Sequence[bytes], features: Features, where: str) -> np.ndarray:
    """int32 [N]: the class of every record."""
    labels = np.empty(len(records), np.int32)
    with Count(f"indexing {where}", len(records), "records") as count:
        for i, values in enumerate(_collect(records, features.keys, where)):
            try:
                labels[i] = features.label(*values)
            except (ValueError, IndexError, TypeError, OverflowError) as error:
                raise UserError(f"Record {i} of {where} holds no label but {values}; prepare it again.") from error
            if not 0 <= labels[i] < features.num_classes:
                raise UserError(
                    f"Record {i} of {where} holds the label {labels[i]}, expected less than {features.num_classes}; "
                    "prepare it again."
                )
            count.advance(1)
    return labels


def _split(records: Sequence[bytes], image: str, labels: np.ndarray | MultiLabels, where: str) -> Split:
    def read(i: int) -> bytes:
        values = _values(_record(records, i, where), image, f"Record {i} of {where}")
        return values[0] if values and isinstance(values[0], bytes) else b""  # which is no image, and is named as such

    return Split(read, labels, lambda i: f"in record {i} of {where}")


def _record(records: Sequence[bytes], i: int, where: str) -> bytes:
    try:
        return records[i]
    except (RuntimeError, ValueError, IndexError) as error:  # what the C++ reader raises for a damaged file
        raise UserError(
            f"Record {i} of {where} cannot be read ({reason(error)}); prepare the dataset again."
        ) from error


def _collect(records: Any, keys: tuple[str, ...], where: str) -> Iterator[tuple[list[int | bytes], ...]]:
    """The values of `keys` for every record, in order."""
    for start in range(0, len(records), CHUNK):
        try:
            chunk = records.__getitems__(range(start, min(start + CHUNK, len(records))))
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"The split {where} cannot be read ({reason(error)}); prepare the dataset again."
            ) from error
        for i, record in enumerate(chunk, start):
            yield tuple(_values(record, key, f"Record {i} of {where}") for key in keys)


def _values(record: bytes, key: str, where: str) -> list[int | float | bytes]:
    """The values of feature `key` of a serialized `tf.train.Example`: numbers or bytes, those of a matrix row by row."""
    try:
        for _, features in fields(record):
            for _, entry in fields(features):
                name, feature = (value for _, value in fields(entry))
                if name == key.encode():
                    return _feature_values(feature)
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{where} is no tf.train.Example ({error}); prepare the dataset again.") from error
    raise UserError(f"{where} lacks the feature {key!r}; prepare the dataset again.")


def _feature_values(feature: bytes) -> list[int | float | bytes]:
    """A Feature's values: field 1 is a BytesList, 2 a FloatList, 3 an Int64List; numbers are packed or not."""
    values = []
    for kind, items in fields(feature):
        for _, item in fields(items):
            if kind == 3:
                values += _packed(item) if isinstance(item, bytes) else [_signed(item)]
            elif kind == 2:
                values += np.frombuffer(item if isinstance(item, bytes) else item.to_bytes(4, "little"), "<f4").tolist()
            elif kind == 1 and isinstance(item, bytes):
                values.append(item)
            else:
                raise ValueError(f"a value of kind {kind} where bytes or a number belongs")
    return values


def _packed(data: bytes) -> list[int]:
    numbers, position = [], 0
    while position < len(data):
        number, position = varint(data, position)
        numbers.append(_signed(number))
    return numbers


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
