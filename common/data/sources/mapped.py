"""Images with maps: `maps:FOLDER`, and `coco_panoptic:FOLDER` as the publishers of COCO hand it out.

`FOLDER/{train,val,test}/images/**/x.jpg` belongs to `FOLDER/{train,val,test}/depth/**/x.png` (grey, millimetres) or `x.npy`
(metres), or to `panoptic/**/x.png` or `x.npy`, whose first two channels are category and instance; `FOLDER/categories.json`
then lists the categories as COCO's `panoptic_coco_categories.json` does.

Of COCO, `FOLDER/annotations/panoptic_train2017.json` has the segments of `FOLDER/annotations/panoptic_train2017/*.png`, which
are of the images `FOLDER/train2017/*.jpg`. Source: https://cocodataset.org/#format-data
"""

import dataclasses
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.data import images, label_maps
from common.data.label_maps import Category, Maps
from common.data.sources import Places
from common.data.sources.captioned import one_list
from common.data.sources.image_files import Files, Unused, image_files, packed
from common.data.sources.index import Arrays, Watch, indexed
from common.data.sources.shards import find_shards
from common.data.split import Dataset, MultiLabels, Split
from common.system.errors import UserError, printable, reason, shortened
from common.system.files import read_regular
from common.system.progress import Count

MAPS, COCO = "maps:", "coco_panoptic:"
SPLITS, KINDS, ENDINGS = ("train", "val", "test"), ("depth", "panoptic"), (".png", ".npy")
CATEGORIES = "categories.json"


def with_maps(files: Files, maps: Maps) -> Split:
    """A split of image files with maps, each of which has to be as large as its image."""

    def checked(i: int) -> np.ndarray:
        return label_maps.fitting(maps.read(i), images.size(files.read(i)))

    split = files.split(MultiLabels.none(len(files.ends)))
    return dataclasses.replace(split, maps=dataclasses.replace(maps, read=checked))


# --- a folder


def open_maps(name: str, places: Places) -> Dataset:
    """The images of the folder `name` with their maps. UserError for an image without a map, and for a folder without images."""
    del places  # the name says where they are
    root = Path(name)
    parts = {split: root / split for split in SPLITS if (root / split / "images").is_dir()}
    kinds = [kind for kind in KINDS if any((place / kind).is_dir() for place in parts.values())]
    if len(kinds) != 1:
        raise UserError(
            f"{MAPS}{shortened(name)} has {' and '.join(kinds) or 'no maps'}; expected train/images/ with either train/depth/ "
            "or train/panoptic/ beside it, and val or test like it."
        )
    kind = kinds[0]
    categories = label_maps.read_categories(root / CATEGORIES) if kind == "panoptic" else ()
    arrays = indexed(root, [*parts.values()], lambda watch: _scan(root, parts, kind, watch), f"-{kind}")
    return Dataset(name, (), {split: _split(place, kind, arrays, split, categories) for split, place in parts.items()})


def _split(place: Path, kind: str, arrays: Arrays, split: str, categories: tuple[Category, ...]) -> Split:
    own = Files(place / "images", arrays[f"{split}/names"], arrays[f"{split}/ends"])
    known = Files(place / kind, arrays[f"{split}/map_names"], arrays[f"{split}/map_ends"])
    read = {"depth": label_maps.depth, "panoptic": lambda path: label_maps.two_channels(path, categories)}[kind]
    return with_maps(own, Maps(kind, lambda i: read(known.path(i)), categories, known.path))


def _scan(root: Path, parts: dict[str, Path], kind: str, watch: Watch) -> Arrays:
    """`names`, `ends`, `map_names` and `map_ends` of every split."""
    arrays = {}
    for split, place in parts.items():
        try:
            names = image_files(str(place / "images"), Unused(), watch)
        except OSError as error:
            raise UserError(f"The folder {place} cannot be read ({error}); restore it.") from error
        if not names:
            raise UserError(f"{place / 'images'} holds no image; add some, or remove the folder.")
        found = [_map_of(place / kind, name) for name in names]
        for key, own in (("", names), ("map_", found)):
            text, arrays[f"{split}/{key}ends"] = packed(own)
            arrays[f"{split}/{key}names"] = np.frombuffer(text, np.uint8)
    return arrays


def _map_of(folder: Path, name: str) -> str:
    """The map of an image, below a folder. UserError where there is none, or more than one."""
    found = [stem + ending for stem in [os.path.splitext(name)[0]] for ending in ENDINGS]
    there = [one for one in found if os.path.isfile(folder / one)]
    if len(there) != 1:
        raise UserError(
            f"{folder} holds {' and '.join(map(printable, there)) or 'no map'} of the image {printable(name)}, expected one of "
            f"{' and '.join(map(printable, found))}; add it, or remove the image."
        )
    return there[0]


# --- COCO


def open_coco_panoptic(name: str, places: Places) -> Dataset:
    """The images of COCO in the folder `name`, or those that its lists `FOLDER/annotations/panoptic_val2017.json` name.

    Images in the order of their names. UserError where files are missing or broken.
    """
    del places  # the name says where they are
    pattern = os.path.join(name, "annotations", "panoptic_*.json") if os.path.isdir(name) else name
    shards = find_shards(COCO, pattern, ".json")
    splits = {}
    for split in shards.splits:
        path = one_list(shards, split)
        folder, segmented = _folders(path)
        with Count(f"indexing {path}", 1, "lists"):
            rows, categories = _rows(path, folder, segmented)
        names, ends = packed([row["image"] for row in rows])
        read = lambda i, rows=rows, categories=categories, segmented=segmented: _read(segmented, rows[i], categories)
        path = lambda i, rows=rows, segmented=segmented: str(segmented / rows[i]["map"])
        files = Files(folder, np.frombuffer(names, np.uint8), ends)
        splits[split] = with_maps(files, Maps("panoptic", read, categories, path))
    known = {split.maps.categories for split in splits.values()}
    if len(known) > 1:
        raise UserError(f"The lists of {COCO}{shortened(name)} have different categories; fetch them again.")
    return Dataset(COCO + name, (), splits)


def _folders(path: Path) -> tuple[Path, Path]:
    """(images, segmentations) of a list. UserError where one is missing."""
    year = path.stem.removeprefix("panoptic_")
    above = path.absolute().parent
    folder = above.parent / year
    segmented = next((place / path.stem for place in (above, above.parent) if (place / path.stem).is_dir()), None)
    if not folder.is_dir() or segmented is None:
        missing = folder if not folder.is_dir() else above / path.stem
        raise UserError(f"{path} belongs to the folder {missing}, which is missing; unpack it there.")
    return folder, segmented


def _rows(path: Path, folder: Path, segmented: Path) -> tuple[list[dict[str, Any]], tuple[Category, ...]]:
    """({image, map, segments} of each image in the order of their names, the categories). UserError for what is broken."""
    try:
        facts = json.loads(read_regular(path))
        categories = label_maps.read_categories(path, facts["categories"])
        files = {image["id"]: str(PurePosixPath(image["file_name"])) for image in facts["images"]}
        rows = [
            {
                "image": files[one["image_id"]],
                "map": str(PurePosixPath(one["file_name"])),
                "segments": [
                    {
                        "id": int(own["id"]),
                        "category_id": int(own["category_id"]),
                        "iscrowd": int(own.get("iscrowd", 0)),
                    }
                    for own in one["segments_info"]
                ],
            }
            for one in facts["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} holds no segments as COCO lists them ({printable(reason(error))}); fetch it again."
        ) from error
    names = {row["image"] for row in rows}
    if not rows or len(names) < len(rows):
        raise UserError(f"{path} holds {'an image twice' if rows else 'no image'}; fetch it again.")
    for row in rows:
        for place, name in ((folder, row["image"]), (segmented, row["map"])):
            if name.startswith("/") or ".." in PurePosixPath(name).parts or not (place / name).is_file():
                raise UserError(f"{path} lists {printable(name)}, which is not in {place}; fetch it again.")
    return sorted(rows, key=lambda row: row["image"]), categories


def _read(folder: Path, row: dict[str, Any], categories: tuple[Category, ...]) -> np.ndarray:
    where = str(folder / row["map"])
    return label_maps.segments(label_maps.load(where, 3), row["segments"], categories, where)
