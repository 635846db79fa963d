"""Image folders `PATH/{train,val|test}/<class>/**/*.{jpg,png,...}`, and the sample that ships with the project.

Without split folders, `PATH/<class>/**` are training images, of which --val_fraction sets some apart. Where images have any
number of classes, or captions, or the folders are those of VTAB-1k, lists replace the class folders: see listed.py and
captioned.py. A large folder is scanned once: see index.py.

ImageNet's further suites lie beside: `PATH/v2/<class>/*`, where a class may also be called by its number, as ImageNet-V2
calls it, and `PATH/real.json` with other labels of `val` (real.py). A folder without `train` can be evaluated on.
"""

import os
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from common.data.sources import Places, captioned, listed, real
from common.data.sources.image_files import ENDINGS, Files, Unused, image_files, is_hidden, packed
from common.data.sources.index import NAME, Arrays, Watch, indexed
from common.data.split import Dataset, Split
from common.system.errors import UserError
from common.system.progress import Count

SPLITS = ("train", "val", "test", "v2")
LISTS = {listed.LABELS: listed.open_listed, captioned.LIST: captioned.open_captioned}  # in place of class folders
SPELLINGS = {  # what people call the splits, too
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
SAMPLE = Path(__file__).resolve().parents[2] / "cifar10-sample.zip"  # stored, not deflated: JPEGs do not shrink
Folders = dict[str, list[Path]]  # split -> its class folders, in the order of the classes


def is_there(name: str) -> bool:
    """Whether `open_folder` has something to open; False also for what cannot be the name of a folder."""
    return os.path.isdir(name) or listed.is_variant(name)


def open_folder(name: str, places: Places) -> Dataset:
    """The image folder `name`; classes and files in the order of their names, or of lists.

    Raises UserError for a folder without classes, with a class that holds no image or that `train` lacks, with a split by
    another name, or with a line of a list or an entry of `real.json` that fits nothing.
    """
    root = Path(name)
    if listed.is_variant(name):
        return listed.open_benchmark(root.parent, listed.WITH_VAL)
    if listed.is_benchmark(root):
        return listed.open_benchmark(root)
    check_spelling(root)
    parts = {split: root / split for split in SPLITS if (root / split).is_dir()} or {"train": root}
    lists = [name for name in LISTS if any((place / name).is_file() for place in parts.values())]
    if len(lists) > 1:
        raise UserError(f"The folder {root} holds {' and '.join(lists)}; keep one of them.")
    if lists:
        return LISTS[lists[0]](root, parts)
    naming = [split for split in ("train",) if split in parts] or ["val", "test"]
    class_names = tuple(sorted({folder.name for split in naming for folder in _folders(parts.get(split))}))
    if not class_names:
        raise UserError(
            f"The folder {root} holds no class folders in {parts.get(naming[0], root / naming[0])}; expected "
            f"{naming[0]}/<class>/*.jpg, or <class>/*.jpg with --val_fraction."
        )
    folders = {split: _class_folders(place, split, class_names) for split, place in parts.items()}
    if parts == {"train": root}:
        check_classes(root, folders["train"])
    watched = [path for paths in folders.values() for path in paths]
    arrays = indexed(root, watched, lambda watch: _scan(root, folders, class_names, watch))
    files = {split: Files(parts[split], arrays[f"{split}/names"], arrays[f"{split}/ends"]) for split in parts}
    opened = {split: files[split].split(arrays[f"{split}/labels"]) for split in parts}
    if "val" in opened and (root / real.FILE).is_file():
        opened["real"] = real.relabelled(opened["val"], root / real.FILE, len(class_names))
    unused = _beside(root, folders, parts).with_those_of(Unused(arrays["unused"].tobytes()))
    notes = (f"Not used in {root}: {unused}.",) if unused.kinds else ()
    return Dataset(name, class_names, opened, notes=notes)


def check_spelling(root: Path) -> None:
    """Raise UserError where a split is missing and a folder has another name for it."""
    names = [folder.name for folder in _folders(root)]
    for split, spellings in SPELLINGS.items():
        other = [name for name in names if name.lower() in spellings]
        if other and split not in names:
            raise UserError(f"{root} holds the folder {other[0]}, expected {split}; rename it, if it is that split.")


def check_classes(root: Path, folders: list[Path]) -> None:
    """Raise UserError where the folders in `root` hold folders alone, and may be splits or anything."""
    if not any(os.path.splitext(name)[1].lower() in ENDINGS for folder in folders for name in os.listdir(folder)):
        raise UserError(
            f"{root} holds {folders[0].name} and {len(folders) - 1} other folders that hold no image but folders; expected "
            "train/<class>/*.jpg and val or test like it, or <class>/*.jpg with --val_fraction."
        )


def _class_folders(place: Path, split: str, class_names: tuple[str, ...]) -> list[Path]:
    """The class folders of a split, in the order of the classes."""
    number = _class_numbers(split, class_names)
    found = _folders(place)
    unknown = sorted({folder.name for folder in found} - set(number))
    if unknown:
        raise UserError(
            f"{place} holds the class {unknown[0]!r}, which {place.parent / 'train'} lacks; "
            "every class needs training images."
        )
    if not found:
        raise UserError(f"{place} holds no class folders; expected {split}/<class>/*.jpg.")
    return sorted(found, key=lambda folder: number[folder.name])


def _class_numbers(split: str, class_names: tuple[str, ...]) -> dict[str, int]:
    """{name of a class folder: label}; ImageNet-V2 calls its 1,000 folders 0, 1, 2, 3, ..."""
    numbered = {str(label): label for label in range(len(class_names))} if split == "v2" else {}
    return numbered | {class_name: label for label, class_name in enumerate(class_names)}


def _scan(root: Path, folders: Folders, class_names: tuple[str, ...], watch: Watch) -> Arrays:
    """`names`, `ends` and `labels` int32 [N] of every split, and what is `unused` in its class folders."""
    arrays, unused = {}, Unused()
    with Count(f"indexing {root}", sum(map(len, folders.values())), "folders") as count:
        for split, paths in folders.items():
            names, ends, labels, total_bytes, number = [], [], [], 0, _class_numbers(split, class_names)
            for path in paths:
                files = _image_names(path, unused, watch)
                text, stops = packed([f"{path.name}/{file}" for file in files])
                names.append(text)
                ends.append(stops + total_bytes)
                labels.append(np.full(len(files), number[path.name], np.int32))
                total_bytes += len(text)
                count.advance(1)
            arrays[f"{split}/names"] = np.frombuffer(b"".join(names), np.uint8)
            arrays[f"{split}/ends"], arrays[f"{split}/labels"] = np.concatenate(ends), np.concatenate(labels)
    return arrays | {"unused": unused.dump(root)}


def _image_names(folder: Path, unused: Unused, watch: Watch) -> list[str]:
    own = Unused()
    try:
        names = image_files(str(folder), own, watch)
    except OSError as error:
        raise UserError(f"The class folder {folder} cannot be read ({error}); restore or remove it.") from error
    if not names:
        there = f" but {own}" if own.kinds else ""
        raise UserError(
            f"The class folder {folder} holds no image{there}; add some (.jpg, .png or another kind that Pillow reads) or "
            "remove it."
        )
    unused.with_those_of(own)
    return names


def _folders(path: Path | None) -> list[Path]:
    if path is None or not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [Path(entry.path) for entry in entries if not is_hidden(entry.name) and os.path.isdir(entry.path)]


def _beside(root: Path, folders: Folders, places: dict[str, Path]) -> Unused:
    """The files beside the splits and the class folders."""
    unused, known = Unused(), {root / real.FILE, *places.values(), *(path for own in folders.values() for path in own)}
    for place in {root, *places.values()}:
        with os.scandir(place) as entries:
            for entry in entries:
                if Path(entry.path) not in known and not entry.name.startswith(NAME):
                    kind = "folder" if os.path.isdir(entry.path) else "file"
                    kind = "hidden" if is_hidden(entry.name) else f"{kind} beside the classes"
                    unused.add(kind, os.path.relpath(entry.path, root))
    return unused


# --- the embedded sample


def open_sample(name: str, places: Places) -> Dataset:
    """The embedded sample, a zip file with the layout of an image folder."""
    del places  # it travels with the project
    with zipfile.ZipFile(SAMPLE) as archive:
        members = {member: archive.read(member) for member in sorted(archive.namelist())}
    class_names = tuple(sorted({PurePosixPath(member).parts[1] for member in members}))
    splits = {}
    for split in ("train", "test"):
        names = [member for member in members if member.startswith(split)]
        labels = np.array([class_names.index(PurePosixPath(member).parts[1]) for member in names], np.int32)
        splits[split] = _sample_split(names, members, labels)
    return Dataset(name, class_names, splits)


def _sample_split(names: list[str], members: dict[str, bytes], labels: np.ndarray) -> Split:
    return Split(lambda i: members[names[i]], labels, lambda i: f"{names[i]} of {SAMPLE.name}", forks=True)
