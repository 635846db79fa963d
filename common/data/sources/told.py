"""What files with many examples tell of their images: labels, captions, or both."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.blocks import Blocks
from common.data.captions import Captions, cleaned
from common.data.lists import lines, unquoted
from common.data.sources.image_files import Unused
from common.data.sources.shards import Shards
from common.data.split import Dataset, MultiLabels, Split
from common.system.errors import UserError, nearest, printable, shortened

Label = int | str
HIDDEN = -1  # of every image of a split: its publishers keep the labels to themselves


class Told(NamedTuple):
    """What is known of one image, in words of messages too; None where nothing says."""

    label: Label | None
    texts: Sequence[str] | None  # perhaps empty ones


class Gathered:
    """Labels and captions of the images of a set, all of which have what the first one has."""

    def __init__(self):
        self.labels: dict[str, list[Label]] = {}  # of each split
        self.texts: dict[str, list[Sequence[str]]] = {}
        self.kept: dict[str, list[bool]] = {}
        self.needed: tuple[bool, bool] | None = None  # labels, captions

    def add(self, split: str, told: Told, where: str, expected: str) -> bool:
        """Whether the image is kept: it is not where all of its captions are empty. UserError where it lacks one altogether."""
        has = told.label is not None, told.texts is not None
        self.needed = self.needed or (has if any(has) else (True, True))
        missing = [what for what, need, there in zip(("label", "caption"), self.needed, has) if need and not there]
        if missing:
            raise UserError(f"{where} has no {' or '.join(missing)}; expected {expected}.")
        kept = True
        if self.needed[0]:
            self.labels.setdefault(split, []).append(told.label)
        if self.needed[1]:
            texts = cleaned(told.texts, where)
            kept = bool(texts)
            self.texts.setdefault(split, []).append(texts)
        self.kept.setdefault(split, []).append(kept)
        return kept

    def dump(self, shards: Shards, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays for an index, which `split_of_rows` reads, and `class_names` as JSON. UserError for labels without class."""
        for split in shards.splits:
            if not any(self.kept.get(split, ())):
                lacking = "with a caption" if self.kept.get(split) else "at all"
                raise UserError(
                    f"The split {split} of {shards.name} has no image {lacking}; add some, or name other files."
                )
        shown = {split: own for split, own in self.labels.items() if any(label != HIDDEN for label in own)}
        class_names, labels = numbered(shards, shown, names) if shown else ((), {})
        arrays = {f"{split}/labels": own for split, own in labels.items()}
        for split, texts in self.texts.items():
            arrays |= {f"{split}/{name}": array for name, array in Captions.pack(texts).dump().items()}
            if not all(self.kept[split]):
                arrays[f"{split}/kept"] = np.flatnonzero(self.kept[split])
        return arrays | {"class_names": dumped(class_names)}


def arrays_of_splits(shards: Shards, arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of an index by split, without the splits whose labels are hidden."""
    found = {split: {} for split in shards.splits}
    for key, array in arrays.items():
        split, slash, name = key.partition("/")
        if slash:
            found[split][name] = array
    return {split: own for split, own in found.items() if own.keys() & {"labels", "captions/text"}}


def dataset_of(prefix: str, shards: Shards, arrays: dict[str, np.ndarray], splits: dict[str, Split]) -> Dataset:
    """The dataset of these splits, with the notes of an index. UserError where there are none."""
    hidden = [split for split in shards.splits if split not in splits]
    if not splits:
        raise UserError(
            f"The labels of {prefix}{shards.name} are all {HIDDEN}, which is no class; choose another dataset."
        )
    unused = Unused(arrays["unused"].tobytes())
    notes = [f"Not used in {shards.folder}: {unused}."] if unused.kinds else []
    notes += [f"The labels of {split} are all {HIDDEN}: it is left out." for split in hidden]
    class_names = tuple(json.loads(arrays["class_names"].tobytes()))
    return Dataset(prefix + shards.name, class_names, splits, notes=tuple(notes))


def split_of_rows(rows: Any, arrays: dict[str, np.ndarray], blocks: Blocks) -> Split:
    """The split of what `rows` reads and describes, from its `paths`, with the labels and captions of an index."""
    captions = Captions.load(arrays)
    labels = arrays["labels"] if "labels" in arrays else MultiLabels.none(len(captions))
    split = Split(
        rows.read, labels, rows.describe, blocks=blocks, captions=captions, files=tuple(rows.paths), forks=rows.forks
    )
    return split.take(arrays["kept"]) if "kept" in arrays else split


def numbered(
    shards: Shards, found: dict[str, Sequence[Label]], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(class names, {split: int32 [N]}) of labels that are all numbers, or all names.

    Names are those given, or those of `classnames.txt`, or else those of the training examples, sorted. Numbers count from 0.
    UserError for a label that is no class.
    """
    names = tuple(names or (read_names(shards.class_names) if shards.class_names else ()))
    naming = found.get("train") or list(itertools.chain(*found.values()))
    if all(isinstance(label, int) for label in itertools.chain(*found.values())):
        number = {label: label for label in range(len(names) or 1 + max(naming))}
        names = names or tuple(map(str, number))
    else:
        names = names or tuple(sorted({str(label) for label in naming}))
        number = {name: label for label, name in enumerate(names)}
    arrays = {}
    for split, own in found.items():
        try:
            arrays[split] = np.array([number[label] for label in own], np.int32)
        except KeyError as error:
            (label,) = error.args
            where = f"{shards.class_names} names" if shards.class_names else "the training images have"
            raise UserError(
                f"The split {split} of {shards.name} holds the label {printable(label)!r}, and {where} the {len(names)} "
                f"classes {shortened(', '.join(names))}{nearest(str(label), names)} Every class needs training images."
            ) from error
    return names, arrays


def read_names(path: Path) -> tuple[str, ...]:
    """The names of a list, one a line. UserError for a name that occurs twice, or none."""
    found = tuple(unquoted(line, f"Line {number} of {path}") for number, line in lines(path))
    again = next((name for i, name in enumerate(found) if name in found[:i]), None)
    if again or not found:
        raise UserError(
            f"{path} names {f'{again!r} twice' if again else 'no class'}, expected one class a line; mend it."
        )
    return found


def dumped(value: object) -> np.ndarray:
    """uint8: anything that JSON holds, for an index."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
