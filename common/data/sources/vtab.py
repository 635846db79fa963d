"""The 19 tasks of VTAB-1k, each with 1,000 training images, from sets that TFDS prepared in ArrayRecord files.

Source: "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark"
(https://arxiv.org/abs/1910.04867) and its code, google-research/task_adaptation: `scripts/run_all_tasks.sh` lists the
tasks, and a file of `task_adaptation/data/`, named below for each, defines splits and labels. All of them train on
`train800val200`: the first 800 examples of `train`, and the first 200 of what that file calls `val`.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from common.data import images
from common.data.sources import Places
from common.data.sources.tfds import Features, open_parts
from common.data.sources.tfds_folder import Part, find_prepared, read_class_names
from common.data.split import Dataset, Split
from common.system.errors import UserError, nearest
from common.system.progress import note

GROUPS = ("natural", "specialized", "structured")
TRAIN = Part("train", 0, 800)


@dataclasses.dataclass(frozen=True)
class Task:
    """One row of the benchmark."""

    group: str
    tfds: str  # name and configuration of the set in TFDS, and the version that the source pins
    version: int
    val: tuple[str, int]  # the official split, and the percentage of it, at which the source's `val` begins
    test: tuple[str, int]  # the same of `test`, which goes on to the end
    features: Features
    source: str  # file in task_adaptation/data/
    brightness: int = 1  # what pixels are multiplied with
    may_flip: bool = True  # whether a mirrored image has the same label

    @property
    def recipe(self) -> dict:
        """The flags in which fine-tuning departs from the rule.

        Big Transfer, section 3.3, leaves flips and crops out where they would destroy the label, "object orientation or
        coordinates in pixel space", and does not list the tasks. Here the structured ones, which ask for positions,
        distances and numbers of things in the whole picture, see all of it, and three are not mirrored.
        """
        whole = {"resize_mode": "whole"} if self.group == "structured" else {}
        return whole | ({} if self.may_flip else {"flip": 0.0})


def its_class(values: Sequence[int]) -> int:
    """The class that TFDS gives."""
    (label,) = values
    return label


def quantised(num_values: int, num_classes: int) -> Callable[[Sequence[int]], int]:
    """A class for every num_values / num_classes neighbouring values."""
    return lambda values: its_class(values) * num_classes // num_values


def number_of_objects(sizes: Sequence[int]) -> int:
    """3 to 10 objects are 8 classes."""
    return len(sizes) - 3


def nearest_object(coordinates: Sequence[float]) -> int:
    """The distance of the nearest object, the third of its coordinates, in six intervals."""
    return interval(min(coordinates[2::3]), (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0))


def nearest_vehicle(types: Sequence[int], locations: Sequence[float]) -> int:
    """The distance of the nearest car, van or truck in metres, in three intervals; 3 where there is none."""
    distances = [distance for kind, distance in zip(types, locations[2::3], strict=True) if kind < 3]
    return interval(min([*distances, 1000.0]), (-100.0, 8.0, 20.0, 999.0))


def interval(value: float, thresholds: Sequence[float]) -> int:
    """The number of the last of the thresholds that lie below `value`."""
    return bisect_left(thresholds, value) - 1


def classes(count: int, key: str = "label") -> Features:
    """The feature `key`, a class."""
    return Features((key,), its_class, count)


X_POSITION = Features(("label_x_position",), quantised(32, 16), 16)
ORIENTATION = Features(("label_orientation",), quantised(40, 16), 16)
COUNT = Features(("objects/size",), number_of_objects, 8)
DISTANCE = Features(("objects/pixel_coords",), nearest_object, 6)
VEHICLE = Features(("objects/type", "objects/location"), nearest_vehicle, 4)

# fmt: off
TASKS = {  # under the names of the published fine-tuned models (`vtab/BiT-M-R50x1-run0-NAME`)
    "caltech101": Task("natural", "caltech101", 3, ("train", 90), ("test", 0), classes(102), "caltech.py"),
    "cifar100": Task("natural", "cifar100", 3, ("train", 90), ("test", 0), classes(100), "cifar.py"),
    "dtd": Task("natural", "dtd", 3, ("validation", 0), ("test", 0), classes(47), "dtd.py"),
    "oxford_flowers102": Task(
        "natural", "oxford_flowers102", 2, ("validation", 0), ("test", 0), classes(102), "oxford_flowers102.py"),
    "oxford_iiit_pet": Task(
        "natural", "oxford_iiit_pet", 3, ("train", 80), ("test", 0), classes(37), "oxford_iiit_pet.py"),
    "sun397": Task("natural", "sun397/tfds", 4, ("validation", 0), ("test", 0), classes(397), "sun397.py"),
    "svhn": Task("natural", "svhn_cropped", 3, ("train", 90), ("test", 0), classes(10), "svhn.py"),
    "diabetic_retinopathy": Task(
        "specialized", "diabetic_retinopathy_detection/btgraham-300", 3, ("validation", 0), ("test", 0), classes(5),
        "diabetic_retinopathy.py"),
    "eurosat": Task("specialized", "eurosat/rgb", 2, ("train", 60), ("train", 80), classes(10), "eurosat.py"),
    "patch_camelyon": Task(
        "specialized", "patch_camelyon", 2, ("validation", 0), ("test", 0), classes(2), "patch_camelyon.py"),
    "resisc45": Task("specialized", "resisc45", 3, ("train", 60), ("train", 80), classes(45), "resisc45.py"),
    "clevr-count": Task("structured", "clevr", 3, ("train", 90), ("validation", 0), COUNT, "clevr.py"),
    "clevr-distance": Task("structured", "clevr", 3, ("train", 90), ("validation", 0), DISTANCE, "clevr.py"),
    "dmlab": Task("structured", "dmlab", 2, ("validation", 0), ("test", 0), classes(6), "dmlab.py"),
    "dsprites-orientation": Task(
        "structured", "dsprites", 2, ("train", 80), ("train", 90), ORIENTATION, "dsprites.py", 255, may_flip=False),
    "dsprites-xpos": Task(
        "structured", "dsprites", 2, ("train", 80), ("train", 90), X_POSITION, "dsprites.py", 255, may_flip=False),
    "kitti-distance": Task("structured", "kitti", 3, ("validation", 0), ("test", 0), VEHICLE, "kitti.py"),
    "smallnorb-azimuth": Task(
        "structured", "smallnorb", 2, ("test", 0), ("test", 50), classes(18, "label_azimuth"), "smallnorb.py",
        may_flip=False),
    "smallnorb-elevation": Task(
        "structured", "smallnorb", 2, ("test", 0), ("test", 50), classes(9, "label_elevation"), "smallnorb.py"),
}
# fmt: on


def find_task(name: str) -> Task:
    """The task called `name`; UserError with the nearest names when there is none."""
    if name not in TASKS:
        raise UserError(f"VTAB has no task {name!r}{nearest(name, TASKS)} Give one of {', '.join(TASKS)}.")
    return TASKS[name]


def find_data(task: Task, tfds_data_dir: str | Path | None = None) -> Path:
    """The prepared folder of a task; UserError where there is none."""
    return find_prepared(task.tfds, tfds_data_dir)


def open_vtab(name: str, places: Places) -> Dataset:
    """The splits and recipe of TASK: 1,000 training images and `test`; of TASK/train800: 800, and 200 as `val`.

    Raises UserError when there is no such task, or its data are missing or damaged.
    """
    name, _, variant = name.partition("/")
    task = find_task(name)
    if variant not in ("", "train800"):
        raise UserError(f"vtab:{name} has no variant {variant!r}; give vtab:{name} or vtab:{name}/train800.")
    folder, val = find_data(task, places.tfds_data_dir), Part(*task.val, 200)
    if folder.name.partition(".")[0] != str(task.version):
        note(f"{folder} is not of the version {task.version}.*.* of VTAB: its first examples may be others.")
    parts = {"train": [TRAIN], "val": [val]} if variant else {"train": [TRAIN, val], "test": [Part(*task.test)]}
    splits = open_parts(folder, parts, task.features, f"vtab-{name}-{variant}".rstrip("-"))
    if task.brightness != 1:
        splits = {name: brightened(split, task.brightness) for name, split in splits.items()}
    (key, *_), count = task.features.keys, task.features.num_classes
    named = task.features.label is its_class
    class_names = read_class_names(folder / f"{key}.labels.txt", count) if named else tuple(map(str, range(count)))
    return Dataset(f"{name}/{variant}" if variant else name, class_names, splits, recipe=task.recipe)


def brightened(split: Split, factor: int) -> Split:
    """The split with all its pixels multiplied by `factor`."""
    return dataclasses.replace(split, read=lambda i: images.decode(split.read(i)) * factor)
