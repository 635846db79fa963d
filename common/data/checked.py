"""A command's dataset: images turned by --exif, and broken images found before the first step."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.data.catalogue import open_dataset
from common.data.sources import Opener
from common.data.sources.index import Arrays, indexed
from common.data.split import Dataset, Split
from common.system.errors import UserError, printable
from common.system.progress import Count, show

CHUNK = 64  # images that one thread decodes in a row
WAITING = 1024  # such rows that are given to the threads at once: each takes a kilobyte or two
QUICK_PIXELS = 2**29  # what --on_broken_image stop looks through before a run: some seconds
MOST_SHOWN = 1000
Broken = dict[int, str]  # example -> what is wrong with it


def open_turned(config: Any, open_torchvision: Opener | None = None, exif: str | None = None) -> Dataset:
    """The dataset that the flags of train or evaluate name, turned by their or the given `exif`. Raises UserError."""
    dataset = open_dataset(config.dataset, config.datadir, config.tfds_data_dir, open_torchvision)
    splits = {name: dataclasses.replace(split, exif=exif or config.exif) for name, split in dataset.splits.items()}
    return dataclasses.replace(dataset, splits=splits)


def checked(dataset: Dataset, config: Any, names: Collection[str]) -> Dataset:
    """The dataset with the broken images in its splits `names` treated by --on_broken_image.

    With `skip`, all images are decoded, and those that cannot be are left out as if they were not there. With `stop`, the
    splits that are decoded in some seconds (QUICK_PIXELS) are, and all broken images listed; of a larger one, the first
    that a step meets ends the run. Raises UserError.
    """
    chosen = {name: split for name, split in dataset.splits.items() if name in names}
    workers = config.workers or os.cpu_count()
    if config.on_broken_image == "skip":
        kept = without_broken(dataclasses.replace(dataset, splits=chosen), workers)
        return dataclasses.replace(kept, splits=dataset.splits | kept.splits)
    refuse_broken(chosen, workers)
    return dataset


def without_broken(dataset: Dataset, workers: int) -> Dataset:
    """The dataset without the images that cannot be decoded, and with a note on them.

    Raises UserError where a class has no training image left.
    """
    broken, splits = kept_broken(dataset, workers), {}
    for name, split in dataset.splits.items():
        splits[name] = split.take(np.setdiff1d(np.arange(len(split)), list(broken[name]))) if broken[name] else split
        if not len(splits[name]):
            raise UserError(
                f"No image of {dataset.name} {name} can be decoded; restore them, or choose another --dataset."
            )
    check_classes(dataset, splits)
    skipped = sum(map(len, broken.values()))
    notes = (describe(dataset.splits, broken), *listed(dataset.splits, broken)) if skipped else ()
    return dataclasses.replace(dataset, splits=splits, notes=(*dataset.notes, *notes), skipped=skipped)


def check_classes(dataset: Dataset, splits: dict[str, Split]) -> None:
    """Raise UserError where `splits` lack training images of a class that the dataset has some of."""
    before, after = dataset.splits.get("train"), splits.get("train")
    if before is None or before.is_multi_label:
        return
    lost = np.setdiff1d(before.labels, after.labels)
    if lost.size:
        raise UserError(
            f"No training image of the class {dataset.class_names[lost[0]]!r} of {dataset.name} can be decoded; restore "
            "some, or remove the class."
        )


def refuse_broken(splits: dict[str, Split], workers: int) -> None:
    """Print all images that cannot be decoded, and raise UserError where there are any. Of large splits nothing is read."""
    splits = {name: split for name, split in splits.items() if is_quick(split)}
    broken = {split: find_broken(own, workers, f"checking {split}") for split, own in splits.items()}
    lines = [*listed(splits, broken)]
    for line in lines if len(lines) > 1 else ():
        show(line)
    if lines:
        among = "" if len(lines) == 1 else f"{describe(splits, broken)[:-1]}, all listed above: "
        skip = "or leave such images out with --on_broken_image skip"
        raise UserError(f"{among or 'The image '}{lines[0].strip()}; replace or remove it, {skip}.")


def describe(splits: dict[str, Split], broken: dict[str, Broken]) -> str:
    """`3 of 1,000 images cannot be decoded (2 of train, 1 of val).`"""
    parts = ", ".join(f"{len(own):,} of {name}" for name, own in broken.items() if own)
    total = sum(map(len, splits.values()))
    return f"{sum(map(len, broken.values())):,} of {total:,} images cannot be decoded ({parts})."


def listed(splits: dict[str, Split], broken: dict[str, Broken], most: int = MOST_SHOWN) -> Iterator[str]:
    """A line for each of them, at most `most`."""
    found = [(splits[name], i, why) for name, own in broken.items() for i, why in own.items()]
    yield from (f"  {printable(split.describe(i))} {why}" for split, i, why in found[:most])
    if len(found) > most:
        yield f"  ... and {len(found) - most:,} more, which `python -m common.datasets check` lists"


# --- finding them


def find_broken(split: Split, workers: int, what: str) -> Broken:
    """The examples of `split` that cannot be decoded, in their order; all are, by `workers` threads."""
    if not is_encoded(split):
        return {}
    starts = range(0, len(split), CHUNK)
    with concurrent.futures.ThreadPoolExecutor(workers, "check") as pool, Count(what, len(split), "images") as count:
        found = {}
        for first in range(0, len(starts), WAITING):
            some = starts[first : first + WAITING]
            for start, own in zip(some, pool.map(lambda start: broken_among(split, start), some)):
                found |= own
                count.advance(min(CHUNK, len(split) - start))
    return found


def broken_among(split: Split, start: int) -> Broken:
    """Those of the CHUNK examples from `start` on."""
    found = {i: split.why_broken(i) for i in range(start, min(start + CHUNK, len(split)))}
    return {i: why for i, why in found.items() if why}


def is_encoded(split: Split) -> bool:
    """Whether the examples are files' bytes, or have maps, or cannot even be read, and are not pixels already."""
    try:
        return bool(split.maps) or not isinstance(split.read(0), np.ndarray)
    except OSError:
        return True


def is_quick(split: Split) -> bool:
    """Whether all of a split is decoded in some seconds, by the sizes of a few of its images."""
    if not is_encoded(split):
        return True
    areas = [height * width for height, width in split.sizes(11)]
    return sum(areas) * len(split) <= QUICK_PIXELS * max(len(areas), 1)


def files_of(dataset: Dataset) -> list[Path | str]:
    """The files in which all images lie; none where they lie elsewhere."""
    found = []
    for split in dataset.splits.values():
        if not split.files and not all(os.path.isfile(split.describe(i)) for i in (0, len(split) - 1)):
            return []
        found += split.files or map(split.describe, range(len(split)))
        found += map(split.maps.path, range(len(split))) if split.maps and split.maps.path else ()
    return found


def kept_broken(dataset: Dataset, workers: int) -> dict[str, Broken]:
    """{split: its broken examples}; those of files are kept beside them, and found again once any file has changed."""

    def scan(_: Callable) -> Arrays:
        found = {name: find_broken(split, workers, f"checking {name}") for name, split in dataset.splits.items()}
        return {"broken": np.frombuffer(json.dumps(found).encode(), np.uint8)}

    files, purpose = files_of(dataset), "-".join(["-broken", *dataset.splits])
    if any(split.files for split in dataset.splits.values()):  # of which a folder may hold several sets
        purpose += f"-{hashlib.sha256(dataset.name.encode(errors='surrogateescape')).hexdigest()[:8]}"
    folders = {os.path.abspath(os.path.dirname(path)) for path in files}
    arrays = indexed(Path(os.path.commonpath(folders)), files, scan, purpose) if files else scan(None)
    found = json.loads(arrays["broken"].tobytes())
    return {name: {int(i): why for i, why in own.items()} for name, own in found.items()}
