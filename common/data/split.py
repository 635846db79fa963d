"""Splits of a dataset: random access to encoded images and their labels; what is carved, drawn and chosen from them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from common.data import images
from common.data.blocks import Blocks
from common.data.captions import Captions
from common.data.label_maps import Maps
from common.system.errors import UserError, printable

SPLITS = ("train", "val", "test")  # what a run is made with; others it only looks at


@dataclasses.dataclass(frozen=True)
class MultiLabels:
    """Labels of examples that have any number of classes: those of example i are classes[first[i] : first[i + 1]]."""

    classes: np.ndarray  # int32
    first: np.ndarray  # int64 [N + 1]
    num_classes: int

    @classmethod
    def none(cls, count: int, num_classes: int = 0) -> Self:
        """Those of `count` examples without any."""
        return cls(np.empty(0, np.int32), np.zeros(count + 1, np.int64), num_classes)

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, examples: np.ndarray | slice) -> "MultiLabels":
        """The labels of these examples, in this order."""
        starts = self.first[:-1][examples]
        counts = self.first[1:][examples] - starts
        first = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(starts - first[:-1], counts) + np.arange(first[-1])
        return MultiLabels(self.classes[places], first, self.num_classes)

    @property
    def width(self) -> int:
        """Places for the classes of any example: a power of two, so that splits which differ a little have as many."""
        return 1 << int(np.diff(self.first).max(initial=1) - 1).bit_length()

    def row(self, example: int, width: int) -> np.ndarray:
        """int32 [width]: the classes of an example, filled up with -1."""
        found = np.full(width, -1, np.int32)
        own = self.classes[self.first[example] : self.first[example + 1]]
        found[: len(own)] = own
        return found

    def multi_hot(self) -> np.ndarray:
        """float32 [N, K]: 1 at every class of an example, 0 elsewhere."""
        hot = np.zeros((len(self), self.num_classes), np.float32)
        hot[np.repeat(np.arange(len(self)), np.diff(self.first)), self.classes] = 1
        return hot


class Example:
    """One example of a split, while something is made of it: its image is decoded when it is first asked for, once."""

    __slots__ = ("_image", "number", "split")

    def __init__(self, split: "Split", number: int):
        self.split, self.number, self._image = split, number, None

    @property
    def image(self) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        # Not functools.cached_property: in Python 3.11 its lock lets one thread decode at a time.
        if self._image is None:
            self._image = images.decode(self.split.read(self.number), self.split.exif)
        return self._image

    @property
    def map(self) -> np.ndarray:
        """What is known of every pixel of the whole image: see `Maps`."""
        return self.split.maps.read(self.number)


@dataclasses.dataclass(frozen=True)
class Split:
    """Random access to the examples of one split, 0 <= i < len(split); images are decoded when asked for."""

    read: Callable[[int], bytes | np.ndarray]  # example -> the image file's bytes, or its pixels as uint8 [H, W, 3]
    labels: np.ndarray | MultiLabels  # int32 [N], or any number of classes for each example
    describe: Callable[[int], str]  # example -> what an error message calls it
    exif: str = "ignore"  # or `apply`: photographs are turned by their EXIF orientation
    blocks: Blocks | None = None  # None: wherever an example lies, reading it takes as long
    captions: Captions | None = None  # a sequence: the texts of each example
    files: tuple[Path, ...] = ()  # in which the examples lie, many in each
    # Whether forks of this process may read, too: no library's threads take part, and nothing is read for several examples.
    forks: bool = False
    maps: Maps | None = None  # of every pixel

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_multi_label(self) -> bool:
        """Whether an example may have several classes, or none."""
        return isinstance(self.labels, MultiLabels)

    @property
    def num_labelled(self) -> int:
        """The number of examples with a class: an evaluation counts these."""
        return int(np.count_nonzero(np.diff(self.labels.first))) if self.is_multi_label else len(self)

    def renumber(self, numbers: np.ndarray, num_classes: int) -> "Split":
        """The same examples, class k called `numbers[k]` of `num_classes`."""
        labels = self.labels
        if self.is_multi_label:
            return dataclasses.replace(self, labels=MultiLabels(numbers[labels.classes], labels.first, num_classes))
        return dataclasses.replace(self, labels=numbers[labels])

    def take(self, examples: np.ndarray) -> "Split":
        """The split made of these examples, in this order."""
        return dataclasses.replace(
            self,
            read=lambda i: self.read(int(examples[i])),
            labels=self.labels[examples],
            describe=lambda i: self.describe(int(examples[i])),
            blocks=self.blocks and self.blocks[examples],
            captions=self.captions and self.captions.take(examples),
            maps=self.maps and self.maps.take(examples),
        )

    def pairs(self) -> "Split":
        """An example for every caption of an image, one after the other."""
        return dataclasses.replace(self.take(self.captions.images_of), captions=self.captions.each())

    def decode(self, i: int) -> np.ndarray:
        """uint8 RGB [H, W, 3] of example `i`; UserError names the file when it is no image."""
        return self.view(i, lambda example: example.image)

    def view(self, i: int, make: Callable[..., Any], *arguments: Any) -> Any:
        """`make(example, *arguments)` of example `i`; UserError names a file that is no image."""
        try:
            return make(Example(self, i), *arguments)
        except (images.BrokenImage, OSError) as error:
            raise self._named(error, i) from error

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of example `i`, from its header; UserError names the file when it is no image."""
        try:
            return images.size(self.read(i))
        except (images.BrokenImage, OSError) as error:
            raise self._named(error, i) from error

    def sizes(self, count: int) -> list[tuple[int, int]]:
        """(height, width) of up to `count` examples, evenly spread over the split, but for those that are no image."""
        sizes = []
        for i in evenly(len(self), count).tolist():
            with contextlib.suppress(UserError):
                sizes.append(self.size(i))
        return sizes

    def why_broken(self, i: int) -> str:
        """The reason why example `i` cannot be decoded, or its map; empty where they can."""
        try:
            images.decode(self.read(i), self.exif)
            if self.maps:
                self.maps.read(i)
        except images.BrokenImage as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        return ""

    def _named(self, error: Exception, i: int) -> UserError:
        image = printable(self.describe(i))
        if isinstance(error, OSError):
            return UserError(f"The image {image} cannot be read ({error.strerror or error}); restore or remove it.")
        return UserError(f"The image {image} {error}; replace or remove it.")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Named splits of images with classes, or with captions, or with both."""

    name: str
    class_names: tuple[str, ...]  # none where images only have captions
    splits: dict[str, Split]  # of `train`, `val`, `test` and ImageNet's `v2` and `real`
    known_size: tuple[int, int] | None = None  # `image_size` where it is fixed
    recipe: dict = dataclasses.field(default_factory=dict)  # values of flags, where it departs from the rule
    notes: tuple[str, ...] = ()  # lines that a person should read
    skipped: int = 0  # how many images were left out since they cannot be decoded

    @functools.cached_property
    def image_size(self) -> tuple[int, int]:
        """A typical (height, width), from which the BiT-HyperRule takes the resolution. UserError where no image has one."""
        return self.known_size or typical_size(next(iter(self.splits.values())))

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def held_out(self) -> str:
        """The split that is read once, at the end."""
        return held_out(self.splits)

    def check_labels(self, use: str = "classification") -> None:
        """Raise UserError where images have captions or maps only; `use` is what needs labels."""
        maps = next((split.maps.kind for split in self.splits.values() if split.maps), None)
        known = f"maps of {maps}" if maps else "captions"
        model = f"a model of them such as UViM-T/8-{maps}" if maps else "SigLIP-T/8 and --evaluator retrieval"
        if not self.class_names:
            raise UserError(
                f"The images of {self.name} have {known} and no labels, which {use} needs; choose a dataset with labels, or "
                f"for {known} {model}."
            )


def held_out(splits: Collection[str]) -> str:
    """The split that is read once, at the end: `test`, or `val` where there is no `test`."""
    return "test" if "test" in splits else "val"


def evenly(total: int, count: int) -> np.ndarray:
    """int64 [min(count, total)]: numbers from 0 to `total` - 1, evenly apart: of images in the order of their classes, some of each."""
    count = min(count, total)
    return np.arange(count) * (total - 1) // max(count - 1, 1)


def typical_size(split: Split, count: int = 101) -> tuple[int, int]:
    """(height, width) of the image of median area among `count` examples, evenly spread over the split."""
    sizes = split.sizes(count) or [split.size(0)]  # whose error names what is wrong
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))[len(sizes) // 2]


def carve(split: Split, fraction: float, seed: int = 0) -> tuple[Split, Split]:
    """(rest, part): `part` holds `fraction` of the examples, drawn with `seed`, each half in the split's own order.

    UserError where one of them would be empty.
    """
    count = round(fraction * len(split))
    if not 0 < count < len(split):
        raise UserError(
            f"--val_fraction {fraction} leaves {len(split) - count} of {len(split)} examples for training and {count} "
            "for validation; choose a fraction that leaves some for both."
        )
    order = np.random.default_rng([seed, 0x7A1]).permutation(len(split))
    return split.take(np.sort(order[count:])), split.take(np.sort(order[:count]))


def few_shot(split: Split, class_names: Sequence[str], examples_per_class: int, seed: int = 0) -> Split:
    """`examples_per_class` examples of every class, drawn with `seed`, in the split's own order.

    UserError where a class has fewer, or images have several classes.
    """
    if split.is_multi_label:
        raise UserError(
            "--examples_per_class draws images of one class each, and those of this dataset have any number; leave it off."
        )
    chosen = []
    for label, class_name in enumerate(class_names):
        members = np.flatnonzero(split.labels == label)
        if len(members) < examples_per_class:
            raise UserError(
                f"Class {class_name!r} has {len(members)} training examples, --examples_per_class wants "
                f"{examples_per_class}; ask for at most {len(members)} or add images."
            )
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:examples_per_class])
    return split.take(np.sort(np.concatenate(chosen)))


def choose_splits(dataset: Dataset, config: Any, wanted: Collection[str] = ()) -> dict[str, Split]:
    """`train`, the split `val` that curves and choices may read, the dataset's held-out split, and others that are `wanted`.

    With --val_fraction, `val` is carved from `train`, and a dataset's own `val` is held out like a test set. Raises
    UserError.
    """
    if "train" not in dataset.splits:
        raise UserError(
            f"{dataset.name} has no training images, only {', '.join(dataset.splits)}; add some, or choose another --dataset."
        )
    for name in wanted:
        if name != "val" and (name in SPLITS or name not in dataset.splits):
            others = ", ".join(["val", *(split for split in dataset.splits if split not in SPLITS)])
            raise UserError(f"--eval_every names the split {name!r}, expected some of {others}; correct the flag.")
    train, splits = dataset.splits["train"], dict(dataset.splits)
    if not ({"val", "test"} & set(splits)) and not config.val_fraction:
        raise UserError(f"{dataset.name} has no held-out part; add val/ or test/, or give --val_fraction.")
    if config.val_fraction:
        if "test" not in splits and "val" in splits:
            splits["test"] = splits["val"]
        train, splits["val"] = carve(train, config.val_fraction)
    if config.examples_per_class:
        train = few_shot(train, dataset.class_names, config.examples_per_class, config.examples_per_class_seed)
    names = dict.fromkeys(("val", "test", *wanted))
    return {"train": train} | {name: splits[name] for name in names if name in splits}
