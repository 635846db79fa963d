"""Images that lists name: `labels.tsv` of any number of classes for each, and the folders in which VTAB-1k goes round.

`PATH/{train,val|test}/labels.tsv` has a line `path<TAB>class,class,...` for each image, the path below the list's folder
or absolute.

A task of VTAB-1k is a folder with `images/` and the lists `train800val200.txt`, `test.txt`, and mostly `train800.txt` and
`val200.txt`, with a line `path class` for each image, classes by number. `PATH/train800` has the other 200 as `val`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.data.lists import lines, names, unquoted
from common.data.sources.image_files import Files, packed
from common.data.sources.index import Arrays, indexed
from common.data.sources.vtab import TASKS
from common.data.split import Dataset, MultiLabels
from common.system.errors import UserError, nearest, printable
from common.system.progress import Count

LABELS = "labels.tsv"
EXPECTED = "expected `path<TAB>class,class`"
BENCHMARK = {"train": "train800val200.txt", "test": "test.txt"}
WITH_VAL = {"train": "train800.txt", "val": "val200.txt"}
TASK_NAMES = {  # what the folders are called -> the task in vtab.py, where it is called otherwise
    "cifar": "cifar100",
    "clevr_count": "clevr-count",
    "clevr_dist": "clevr-distance",
    "dsprites_loc": "dsprites-xpos",
    "dsprites_ori": "dsprites-orientation",
    "kitti": "kitti-distance",
    "smallnorb_azi": "smallnorb-azimuth",
    "smallnorb_ele": "smallnorb-elevation",
}


def open_listed(root: Path, places: dict[str, Path]) -> Dataset:
    """The splits in `places` {split: folder}, each with its list. UserError for a line that fits nothing."""
    missing = [split for split, place in places.items() if not (place / LABELS).is_file()]
    if missing:
        there = next(place for split, place in places.items() if split not in missing)
        raise UserError(f"{there} holds {LABELS} and {places[missing[0]]} does not; give every split one, or none.")
    if "train" not in places:
        raise UserError(f"The folder {root} holds no train/{LABELS}; expected a line `path<TAB>class,class` per image.")
    lists = {split: place / LABELS for split, place in places.items()}
    arrays = indexed(root, list(lists.values()), lambda _: _scan_lists(lists))
    class_names = tuple(json.loads(arrays["class_names"].tobytes()))
    opened = {}
    for split, place in places.items():
        text, ends, classes, first = (arrays[f"{split}/{part}"] for part in ("names", "ends", "classes", "first"))
        opened[split] = Files(place, text, ends).split(MultiLabels(classes, first, len(class_names)))
    return Dataset(str(root), class_names, opened)


def _scan_lists(lists: dict[str, Path]) -> Arrays:
    """`names`, `ends`, and the labels' `classes` and `first` of every split; the `class_names` of train as JSON."""
    arrays, number = {}, {}
    for split, path in lists.items():
        files, classes, first = [], [], [0]
        for where, file, own in _labelled(path):
            for class_name in own:
                if split == "train":
                    number.setdefault(class_name, len(number))
                elif class_name not in number:
                    raise UserError(
                        f"{where} names the class {class_name!r}, which no training image has"
                        f"{nearest(class_name, number)} Every class needs training images."
                    )
                classes.append(number[class_name])
            files.append(file)
            first.append(len(classes))
        if not number:
            raise UserError(f"{path} names no class; expected lines `path<TAB>class,class`.")
        text, arrays[f"{split}/ends"] = packed(files)
        arrays[f"{split}/names"] = np.frombuffer(text, np.uint8)
        arrays[f"{split}/classes"], arrays[f"{split}/first"] = np.array(classes, np.int32), np.array(first, np.int64)
    class_names = sorted(number)
    arrays["class_names"] = np.frombuffer(json.dumps(class_names).encode(), np.uint8)
    renumbered = np.empty(len(number), np.int32)  # from the order in which they were met to that of their names
    renumbered[[number[class_name] for class_name in class_names]] = np.arange(len(number))
    for split in lists:
        arrays[f"{split}/classes"] = renumbered[arrays[f"{split}/classes"]]
    return arrays


def _labelled(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(which line, image, its classes) of every line; UserError for one that fits nothing."""
    seen = Seen(path)
    with Count(f"indexing {path}", path.stat().st_size, "B") as count:
        for number, line in lines(path):
            where, (file, *fields) = f"Line {number} of {path}", line.split("\t")
            if len(fields) != 1 or not file.strip():
                raise UserError(f"{where} is {line.strip()!r}, {EXPECTED}; mend the line.")
            yield where, seen.file(file, where), list(dict.fromkeys(names(fields[0], where)))
            count.advance(len(line) + 1)
    if not seen.files:
        raise UserError(f"{path} lists no image; expected lines `path<TAB>class,class`.")


class Seen:
    """The images that one list has named."""

    def __init__(self, path: Path):
        self.folder, self.files = f"{path.parent}/", set()

    def file(self, written: str, where: str) -> str:
        """The path below the list's folder, or absolute, that a list writes. UserError where it is not there, or again."""
        file = os.path.normpath(unquoted(written, where)).removeprefix(self.folder)
        if file in self.files:
            raise UserError(f"{where} lists {printable(file)} again; put all that it has on one line.")
        if not os.path.isfile(os.path.join(self.folder, file)):
            slash = "; write / between folders, not \\" if "\\" in file else "; restore or remove it"
            raise UserError(f"{where} lists {printable(file)}, which is not there{slash}.")
        self.files.add(file)
        return file


# --- VTAB-1k


def is_benchmark(root: Path) -> bool:
    """Whether a folder is a task of VTAB-1k with its lists."""
    return all(os.path.isfile(root / name) for name in BENCHMARK.values())


def is_variant(name: str) -> bool:
    """Whether `name` is TASK/train800, no folder but the lists of such a task that set 200 images apart."""
    path = Path(name)
    return path.name == "train800" and not os.path.isdir(path) and is_benchmark(path.parent)


def open_benchmark(root: Path, lists: dict[str, str] = BENCHMARK) -> Dataset:
    """The splits that the `lists` {split: file} name. UserError for a line that fits nothing.

    Classes are called by their numbers. The recipe departs from the rule where that of the task in vtab.py does.
    """
    paths = {split: root / name for split, name in lists.items()}
    arrays = indexed(root, list(paths.values()), lambda _: _scan_numbers(paths), "-".join(["", *lists]))
    count = 1 + int(max(arrays[f"{split}/labels"].max() for split in lists))
    files = {split: Files(root, arrays[f"{split}/names"], arrays[f"{split}/ends"]) for split in lists}
    splits = {split: files[split].split(arrays[f"{split}/labels"]) for split in lists}
    task = TASKS.get(TASK_NAMES.get(root.resolve().name, root.resolve().name))
    if task and count > task.features.num_classes:
        raise UserError(
            f"{root} has the class {count - 1}, and the task of this name {task.features.num_classes} classes, from 0 on; "
            "give the folder another name, if it is another task."
        )
    class_names = tuple(map(str, range(task.features.num_classes if task else count)))
    return Dataset(str(root), class_names, splits, recipe=task.recipe if task else {})


def _scan_numbers(lists: dict[str, Path]) -> Arrays:
    """`names`, `ends` and `labels` int32 [N] of every split."""
    arrays = {}
    for split, path in lists.items():
        files, labels, seen = [], [], Seen(path)
        for number, line in lines(path):
            where, (*file, label) = f"Line {number} of {path}", line.rsplit(maxsplit=1)
            if not file or not (label.isascii() and label.isdecimal() and len(label) < 8):
                raise UserError(
                    f"{where} is {line!r}, expected `path class` with the number of a class; mend the line."
                )
            files.append(seen.file(*file, where))
            labels.append(int(label))
        if not files:
            raise UserError(f"{path} lists no image; expected lines `path class` with the number of a class.")
        text, arrays[f"{split}/ends"] = packed(files)
        arrays[f"{split}/names"], arrays[f"{split}/labels"] = np.frombuffer(text, np.uint8), np.array(labels, np.int32)
    return arrays
