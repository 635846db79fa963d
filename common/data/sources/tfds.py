"""Sets that TensorFlow Datasets (TFDS) prepared in ArrayRecord files, read without TensorFlow and without TFDS.

Reading them here takes no second of imports and leaves images encoded; `tensorflow_datasets` 4.9 would break on protobuf 7.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data import images
from common.data.captions import Captions, cleaned
from common.data.label_maps import Maps, metres
from common.data.sources import Places
from common.data.sources.array_record import collect, feature_values, open_records, read_record
from common.data.sources.index import Arrays, Watch, indexed
from common.data.sources.tfds_folder import Part, described, find_prepared, read_class_names, shards_of, shards_of_part
from common.data.split import Dataset, MultiLabels, Split
from common.system.errors import UserError
from common.system.progress import Count

DEPTH = "depth"  # the feature
# The part of NYU's images that is evaluated: `nyu_eval_crop` of `pp/proj/uvim/pp_ops.py` of google-research/big_vision.
EVALUATED = {("nyu_depth_v2", "val"): (54, 41, 426, 560)}
SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def open_tfds(name: str, places: Places, *, label: str | None = None, order_by: Sequence[str] = ()) -> Dataset:
    """The set `NAME`, `NAME/CONFIG`, `NAME:VERSION` or `NAME/CONFIG:VERSION`, the newest by default.

    Examples come in the order of the files, or by the features `order_by`. The label is the feature `label`, or the one
    that is a class, or where none is a sequence of classes. A set without classes may have captions, the texts of its feature
    `captions` or `caption`, or the depth of every pixel, its feature `depth`. Either is collected in one pass that decodes no image (50,000 records of CIFAR-10 in about 3 s)
    and kept: see index.py. Splits without labels and examples with empty captions are left out. Raises UserError when the
    folder is missing, in another format, or damaged.
    """
    purpose = (f"-{label}" if label else "") + (f"-by-{'-'.join(order_by)}" if order_by else "")
    folder = find_prepared(name, places.tfds_data_dir)
    with described(folder) as (features, info):
        image, texts = _feature(features, "image", "image", folder), _texts(features)
        if texts and not label and not any(map(_is_class, features.values())):
            return _open_captions(name, folder, info, image, texts)
        if "tensor" in features.get(DEPTH, {}) and not label and not any(map(_is_class, features.values())):
            return _open_depth(name, folder, info, image)
        label, description, several = _label(features if label is None else {label: features[label]}, folder)
        class_names = read_class_names(folder / f"{label}.labels.txt", int(description["numClasses"]))
        shards = {SPLITS[row["name"]]: shards_of(info, row, folder) for row in info["splits"] if row["name"] in SPLITS}
    files = [Path(shard.filename) for split in shards.values() for shard in split]
    records = {split: open_records(shards[split]) for split in shards if any(shard.take for shard in shards[split])}

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


def _is_class(feature: dict[str, Any]) -> bool:
    """Whether a feature may be an image's label; the classes of objects within an image are not."""
    return "classLabel" in feature or "classLabel" in feature.get("sequence", {}).get("feature", {})


def _texts(features: dict[str, Any]) -> str:
    """What holds an image's captions in a record: a text, a sequence of texts, or of structures with a `text`; or nothing."""
    for name in ("captions", "caption"):
        feature = features.get(name, {})
        each = feature.get("sequence", {}).get("feature", {})
        if "text" in feature or "text" in each:
            return name
        if "text" in each.get("featuresDict", {}).get("features", {}).get("text", {}):
            return f"{name}/text"
    return ""


def _open_captions(name: str, folder: Path, info: dict[str, Any], image: str, texts: str) -> Dataset:
    """A set whose images have captions under the key `texts` of their records, and no classes."""
    shards = {SPLITS[row["name"]]: shards_of(info, row, folder) for row in info["splits"] if row["name"] in SPLITS}
    records = {split: open_records(own) for split, own in shards.items() if any(shard.take for shard in own)}
    where = {split: f"{split} of {folder}" for split in records}

    def scan(_: Watch) -> Arrays:
        arrays = {}
        for split, source in records.items():
            with Count(f"indexing {where[split]}", len(source), "records") as count:
                found = []
                for i, (own,) in enumerate(collect(source, (texts,), where[split])):
                    if not all(isinstance(text, bytes) for text in own):
                        raise UserError(f"Record {i} of {where[split]} holds no caption but {own}; prepare it again.")
                    decoded = [text.decode(errors="surrogateescape") for text in own]
                    found.append(cleaned(decoded, f"Record {i} of {where[split]}"))
                    count.advance(1)
            arrays |= {f"{split}/{key}": array for key, array in Captions.pack(found).dump().items()}
        return arrays

    files = [folder / "dataset_info.json", folder / "features.json"]
    files += [Path(shard.filename) for own in shards.values() for shard in own]
    arrays, splits, notes = indexed(folder, files, scan, "-captions"), {}, []
    for split, source in records.items():
        own = {key.removeprefix(f"{split}/"): array for key, array in arrays.items() if key.startswith(f"{split}/")}
        captions = Captions.load(own)
        opened = _split(source, image, MultiLabels.none(len(captions)), where[split])
        kept = np.flatnonzero(captions.counts)
        splits[split] = dataclasses.replace(opened, captions=captions).take(kept)
        if len(kept) < len(captions):
            notes.append(f"Not used in {where[split]}: {len(captions) - len(kept):,} images with an empty caption.")
    if not splits or not all(map(len, splits.values())):
        raise UserError(f"{folder} has a split without captions, or none; choose another dataset.")
    return Dataset(name, (), splits, notes=tuple(notes))


def _open_depth(name: str, folder: Path, info: dict[str, Any], image: str) -> Dataset:
    """A set whose images have the depth of every pixel in metres, such as `nyu_depth_v2`, and no classes."""
    splits = {}
    for row in info["splits"]:
        shards = shards_of(info, row, folder) if row["name"] in SPLITS else []
        if any(shard.take for shard in shards):
            records, where, split = open_records(shards), f"{row['name']} of {folder}", SPLITS[row["name"]]
            opened = _split(records, image, MultiLabels.none(len(records)), where)
            box = EVALUATED.get((info["name"], split))
            splits[split] = dataclasses.replace(
                opened,
                read=lambda i, opened=opened, box=box: cut_from(opened.read(i), box),
                maps=Maps(
                    "depth", lambda i, records=records, where=where, box=box: _depth(records, i, image, where, box)
                ),
            )
    if not splits:
        raise UserError(f"{folder} has neither train, validation nor test; choose another dataset.")
    return Dataset(name, (), splits)


def cut_from(encoded: bytes, box: images.Box | None) -> bytes | np.ndarray:
    """An image, or the part of it that is evaluated. Raises BrokenImage."""
    return encoded if box is None else images.cut(images.decode(encoded), box)


def _depth(records: Sequence[bytes], i: int, image: str, where: str, box: images.Box | None) -> np.ndarray:
    """float32 [H, W, 1] of record i. Raises BrokenImage where there are not as many numbers as pixels."""
    record = read_record(records, i, where)
    (encoded,) = feature_values(record, image, where)
    found, (height, width) = feature_values(record, DEPTH, where), images.size(encoded)
    if len(found) != height * width:
        raise images.BrokenImage(f"has {height} x {width} pixels and {len(found):,} depths")
    whole = metres(np.array(found, np.float32).reshape(height, width, 1), f"in record {i} of {where}")
    return whole if box is None else images.cut(whole, box)


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
        parts = {
            name: [s for part in own for s in shards_of_part(info, rows, part, folder)] for name, own in splits.items()
        }
    records = {name: open_records(own) for name, own in parts.items()}
    where = {name: f"{name} of {folder}" for name in records}

    def scan(_: Watch) -> Arrays:
        return {name: _scan_labels(source, features, where[name]) for name, source in records.items()}

    files = dict.fromkeys(Path(shard.filename) for own in parts.values() for shard in own)
    arrays = indexed(folder, [folder / "dataset_info.json", folder / "features.json", *files], scan, f"-{purpose}")
    return {name: _split(records[name], features.image, arrays[name], where[name]) for name in records}


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


def _scan(records: Sequence[bytes], label: str, order_by: Sequence[str], several: bool, where: str) -> Arrays:
    """The classes of record i, classes[first[i] : first[i + 1]], and the records' `order` by features, if it is not theirs."""
    classes, first, sorting_keys, keys = [], [0], [], tuple(dict.fromkeys((label, *order_by)))
    with Count(f"indexing {where}", len(records), "records") as count:
        for values in collect(records, keys, where):
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
        for i, values in enumerate(collect(records, features.keys, where)):
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
        values = feature_values(read_record(records, i, where), image, f"Record {i} of {where}")
        return values[0] if values and isinstance(values[0], bytes) else b""  # which is no image, and is named as such

    return Split(read, labels, lambda i: f"in record {i} of {where}")
