"""Image folders `PATH/{train,val|test}/<class>/*.{jpg,png,...}`, and the sample that ships with the project."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from common.datasets import Split
from common.errors import UserError
from common.images import EXTENSIONS

SPLITS = ("train", "val", "test")
SAMPLE = Path(__file__).resolve().parent.parent / "cifar10-sample.zip"  # stored, not deflated: JPEGs do not shrink


def open_folder(root: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """(class names, splits) of an image folder; classes and files in the order of their names.

    Raises UserError for a folder without `train`, without classes, or with a class that holds no image.
    """
    class_names = tuple(sorted(entry.name for entry in _folders(root / "train")))
    if not class_names:
        raise UserError(f"The folder {root} holds no class folders in {root / 'train'}; expected train/<class>/*.jpg.")
    paths = {split: _image_paths(root, split, class_names) for split in SPLITS if (root / split).is_dir()}
    return class_names, {split: _split(paths[split], class_names, _read_file, str(root)) for split in paths}


def open_sample(name: str, datadir: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """(class names, splits) of the embedded sample, a zip file with the layout of an image folder."""
    del name, datadir  # it travels with the project
    with zipfile.ZipFile(SAMPLE) as archive:
        members = {member: archive.read(member) for member in sorted(archive.namelist())}
    class_names = tuple(sorted({PurePosixPath(member).parts[1] for member in members}))
    by_split = {split: [m for m in members if m.startswith(split)] for split in ("train", "test")}
    return class_names, {
        split: _split([PurePosixPath(m) for m in names], class_names, lambda path: members[str(path)], SAMPLE.name)
        for split, names in by_split.items()
    }


def _split(paths: list, class_names: tuple[str, ...], read: Callable, where: str) -> Split:
    number = {class_name: label for label, class_name in enumerate(class_names)}
    labels = np.array([number[path.parts[-2]] for path in paths], np.int32)
    return Split(
        lambda i: read(paths[i]), labels, lambda i: f"{paths[i]} of {where}" if where == SAMPLE.name else str(paths[i])
    )


def _read_file(path: Path) -> bytes:
    return path.read_bytes()


def _image_paths(root: Path, split: str, class_names: tuple[str, ...]) -> list[Path]:
    found = {folder.name: folder for folder in _folders(root / split)}
    unknown = sorted(set(found) - set(class_names))
    if unknown:
        raise UserError(
            f"{root / split} holds the class {unknown[0]!r}, which {root / 'train'} lacks; "
            "every class needs training images."
        )
    paths = []
    for class_name in sorted(found):
        files = sorted(p for p in found[class_name].iterdir() if p.suffix.lower() in EXTENSIONS)
        if not files:
            raise UserError(
                f"The class folder {found[class_name]} holds no image ({', '.join(EXTENSIONS)}); add some or remove it."
            )
        paths += files
    if not paths:
        raise UserError(f"{root / split} holds no class folders; expected {split}/<class>/*.jpg.")
    return paths


def _folders(path: Path) -> Iterable[Path]:
    return (
        [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        if path.is_dir()
        else []
    )
