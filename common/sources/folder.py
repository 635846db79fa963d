"""Image folders `PATH/{train,val|test}/<class>/*.{jpg,png,...}`, and the sample that ships with the project.

Where images have any number of classes, `PATH/{train,val|test}/labels.tsv` lists them in place of the class folders: a
line `path<TAB>class,class,...` each, the path below the split's folder. A large folder is scanned once: see index.py.

ImageNet's further suites lie beside: `PATH/v2/<class>/*`, where a class may also be called by its number, as ImageNet-V2
calls it, and `PATH/real.json` with other labels of `val` (real.py). A folder without `train` can be evaluated on.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from common.datasets import MultiLabels, Split
from common.errors import UserError, nearest
from common.images import EXTENSIONS
from common.progress import Count
from common.sources import real
from common.sources.index import Arrays, indexed

SPLITS = ("train", "val", "test", "v2")
LABELS = "labels.tsv"
SMALL_BYTES = 2**16  # of a file that is read at once
SAMPLE = Path(__file__).resolve().parent.parent / "cifar10-sample.zip"  # stored, not deflated: JPEGs do not shrink


def open_folder(root: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """(class names, splits) of an image folder; classes and files in the order of their names, or of `labels.tsv`.

    Raises UserError for a folder without classes, with a class that holds no image or that `train` lacks, or with a line
    of `labels.tsv` or an entry of `real.json` that fits nothing.
    """
    splits = [split for split in SPLITS if (root / split).is_dir()]
    listed = [split for split in splits if (root / split / LABELS).is_file()]
    if listed and listed != splits:
        missing = next(split for split in splits if split not in listed)
        raise UserError(
            f"{root / listed[0]} holds {LABELS} and {root / missing} does not; give every split one, or none."
        )
    if listed:
        return _open_listed(root, splits)
    naming = ("train",) if "train" in splits or not splits else ("val", "test")
    class_names = tuple(sorted({entry.name for split in naming for entry in _folders(root / split)}))
    if not class_names:
        raise UserError(
            f"The folder {root} holds no class folders in {root / naming[0]}; expected {naming[0]}/<class>/*.jpg."
        )
    folders = {split: _class_folders(root, split, class_names) for split in splits}
    watched = [path for split in splits for path in folders[split]]
    arrays = indexed(root, watched, lambda: _scan(root, folders, class_names))
    files = {split: Files(root / split, arrays[f"{split}/names"], arrays[f"{split}/ends"]) for split in splits}
    opened = {split: files[split].split(arrays[f"{split}/labels"]) for split in splits}
    if "val" in opened and (root / real.FILE).is_file():
        opened["real"] = real.relabelled(opened["val"], root / real.FILE, len(class_names))
    return class_names, opened


class Files:
    """The files of a split, in 40 bytes each: an image folder may have millions."""

    def __init__(self, folder: Path, names: np.ndarray, ends: np.ndarray):
        """`names` uint8: the paths below `folder`, one after another; `ends` int64 [N]: where each of them ends."""
        self.folder, self.names, self.ends = os.fsencode(folder), names, ends

    def path(self, i: int) -> str:
        """Where example `i` lies."""
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(b"%b/%b" % (self.folder, self.names[start : self.ends[i]].tobytes()))

    def read(self, i: int) -> bytes:
        """The bytes of example `i`. Raises OSError."""
        # Around each system call threads pass Python's lock to one another, which takes longer than a small file:
        # three calls read it, where `open` makes seven.
        descriptor = os.open(self.path(i), os.O_RDONLY)
        try:
            start = os.read(descriptor, SMALL_BYTES)
            return start if len(start) < SMALL_BYTES else start + os.read(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def split(self, labels: np.ndarray | MultiLabels) -> Split:
        """The split of these files, with labels int32 [N] or several for each."""
        return Split(self.read, labels, self.path)


def packed(names: Sequence[str]) -> tuple[bytes, np.ndarray]:
    """(the names one after another, where each of them ends int64 [N])."""
    encoded = [os.fsencode(name) for name in names]
    return b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64)


# --- one folder for each class


def _class_folders(root: Path, split: str, class_names: tuple[str, ...]) -> list[Path]:
    """The class folders of a split, in the order of the classes."""
    number = _class_numbers(split, class_names)
    found = _folders(root / split)
    unknown = sorted({folder.name for folder in found} - set(number))
    if unknown:
        raise UserError(
            f"{root / split} holds the class {unknown[0]!r}, which {root / 'train'} lacks; "
            "every class needs training images."
        )
    if not found:
        raise UserError(f"{root / split} holds no class folders; expected {split}/<class>/*.jpg.")
    return sorted(found, key=lambda folder: number[folder.name])


def _class_numbers(split: str, class_names: tuple[str, ...]) -> dict[str, int]:
    """{name of a class folder: label}; ImageNet-V2 calls its 1,000 folders 0, 1, 2, 3, ..."""
    numbered = {str(label): label for label in range(len(class_names))} if split == "v2" else {}
    return numbered | {class_name: label for label, class_name in enumerate(class_names)}


def _scan(root: Path, folders: dict[str, list[Path]], class_names: tuple[str, ...]) -> Arrays:
    """`names`, `ends` and `labels` int32 [N] of every split."""
    arrays = {}
    with Count(f"indexing {root}", sum(map(len, folders.values())), "folders") as count:
        for split, paths in folders.items():
            names, ends, labels, total_bytes, number = [], [], [], 0, _class_numbers(split, class_names)
            for path in paths:
                files = _image_names(path)
                text, stops = packed([f"{path.name}/{file}" for file in files])
                names.append(text)
                ends.append(stops + total_bytes)
                labels.append(np.full(len(files), number[path.name], np.int32))
                total_bytes += len(text)
                count.advance(1)
            arrays[f"{split}/names"] = np.frombuffer(b"".join(names), np.uint8)
            arrays[f"{split}/ends"], arrays[f"{split}/labels"] = np.concatenate(ends), np.concatenate(labels)
    return arrays


def _image_names(folder: Path) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in EXTENSIONS)
    if not names:
        raise UserError(f"The class folder {folder} holds no image ({', '.join(EXTENSIONS)}); add some or remove it.")
    return names


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


# --- any number of classes for each image


def _open_listed(root: Path, splits: list[str]) -> tuple[tuple[str, ...], dict[str, Split]]:
    if "train" not in splits:
        raise UserError(f"The folder {root} holds no train/{LABELS}; expected a line `path<TAB>class,class` per image.")
    arrays = indexed(root, [root / split / LABELS for split in splits], lambda: _scan_lists(root, splits))
    class_names = tuple(json.loads(arrays["class_names"].tobytes()))
    opened = {}
    for split in splits:
        names, ends, classes, first = (arrays[f"{split}/{part}"] for part in ("names", "ends", "classes", "first"))
        opened[split] = Files(root / split, names, ends).split(MultiLabels(classes, first, len(class_names)))
    return class_names, opened


def _scan_lists(root: Path, splits: list[str]) -> Arrays:
    """`names`, `ends`, and the labels' `classes` and `first` of every split; the `class_names` of train as JSON."""
    arrays, number = {}, {}
    for split in splits:
        path, files, classes, first = root / split / LABELS, [], [], [0]
        for line_number, file, own in _lines(path):
            for class_name in own:
                if split == "train":
                    number.setdefault(class_name, len(number))
                elif class_name not in number:
                    raise UserError(
                        f"Line {line_number} of {path} names the class {class_name!r}, which no training image has"
                        f"{nearest(class_name, number)} Every class needs training images."
                    )
                classes.append(number[class_name])
            files.append(file)
            first.append(len(classes))
        if not number:
            raise UserError(f"{root / 'train' / LABELS} names no class; expected lines `path<TAB>class,class`.")
        names, arrays[f"{split}/ends"] = packed(files)
        arrays[f"{split}/names"] = np.frombuffer(names, np.uint8)
        arrays[f"{split}/classes"], arrays[f"{split}/first"] = np.array(classes, np.int32), np.array(first, np.int64)
    class_names = sorted(number)
    arrays["class_names"] = np.frombuffer(json.dumps(class_names).encode(), np.uint8)
    renumbered = np.empty(len(number), np.int32)  # from the order in which they were met to that of their names
    renumbered[[number[class_name] for class_name in class_names]] = np.arange(len(number))
    for split in splits:
        arrays[f"{split}/classes"] = renumbered[arrays[f"{split}/classes"]]
    return arrays


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line number, image below the list's folder, its classes) of every line; UserError for one that fits nothing."""
    seen, where, size = set(), str(path.parent), path.stat().st_size
    with (
        open(path, encoding="utf-8", errors="surrogateescape") as lines,
        Count(f"indexing {path}", size, "B") as count,
    ):
        for line_number, line in enumerate(lines, 1):
            file, tab, names = line.rstrip("\r\n").partition("\t")
            classes = names.split(",") if names else []
            if not tab or not file or "\t" in names or "" in classes:
                raise UserError(
                    f"Line {line_number} of {path} is {line.strip()!r}, expected `path<TAB>class,class`; mend the line."
                )
            if file in seen:
                raise UserError(f"Line {line_number} of {path} lists {file} again; put its classes on one line.")
            if not os.path.isfile(os.path.join(where, file)):
                raise UserError(f"Line {line_number} of {path} lists {file}, which is not there; restore or remove it.")
            seen.add(file)
            yield line_number, file, list(dict.fromkeys(classes))
            count.advance(len(line))
    if not seen:
        raise UserError(f"{path} lists no image; expected lines `path<TAB>class,class`.")


# --- the embedded sample


def open_sample(name: str, datadir: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """(class names, splits) of the embedded sample, a zip file with the layout of an image folder."""
    del name, datadir  # it travels with the project
    with zipfile.ZipFile(SAMPLE) as archive:
        members = {member: archive.read(member) for member in sorted(archive.namelist())}
    class_names = tuple(sorted({PurePosixPath(member).parts[1] for member in members}))
    splits = {}
    for split in ("train", "test"):
        names = [member for member in members if member.startswith(split)]
        labels = np.array([class_names.index(PurePosixPath(member).parts[1]) for member in names], np.int32)
        splits[split] = _sample_split(names, members, labels)
    return class_names, splits


def _sample_split(names: list[str], members: dict[str, bytes], labels: np.ndarray) -> Split:
    return Split(lambda i: members[names[i]], labels, lambda i: f"{names[i]} of {SAMPLE.name}")
