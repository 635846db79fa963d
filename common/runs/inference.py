"""What `evaluate` and `predict` prepare before an engine computes, and what they show of its numbers."""

import collections
import dataclasses
import itertools
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common import weights
from common.config import EvaluateConfig, PredictConfig
from common.data.batches import EvalBatches, prefetch
from common.data.checked import checked, open_turned, refuse_broken, without_broken
from common.data.sources import Opener
from common.data.sources.image_files import Unused, image_files
from common.data.split import Dataset, Split, typical_size
from common.evaluation.match import match_classes
from common.evaluation.metrics import accuracies, add_up, averages
from common.models import find_model
from common.models.cards import Preprocessing
from common.recipes import hyperrule
from common.system.errors import UserError, printable, shortened
from common.system.files import read_regular, write_atomically
from common.system.progress import follow, note, result, show
from common.weights.containers import npz

WORDNET_ID = re.compile(r"n\d{8}")  # what ImageNet calls its class folders
ROWS = 4096  # of a column that are made bytes at once
Outputs = tuple[np.ndarray, np.ndarray]  # features [B, D] and logits [B, K] of a batch


class Inference:
    """The model of a command: `model_config`, `arrays`, and the `card` beside its weights file, or the manifest's."""

    def __init__(self, config: EvaluateConfig | PredictConfig):
        model = find_model(config.model)
        path = weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        self.config, self.published = config, model if config.weights == "pretrained" else None
        size = (config.resolution, config.resolution) if config.resolution else None
        lines = []
        self.model_config, self.arrays, self.card = weights.starting_values(
            model, path, image_size=size, pretrained=bool(self.published), say=lines.append
        )
        if self.model_config.num_classes is None:
            raise UserError(f"{config.weights} has no head to tell classes with; train one with `train --weights`.")
        for line in lines:
            note(line)
        self.preprocessing = self.card.preprocessing
        if config.eval_resize_kind:
            self.preprocessing = dataclasses.replace(self.preprocessing, resize_kind=config.eval_resize_kind)
        self.resolution = config.resolution or self.preprocessing.resolution or model.resolution
        if self.model_config.image_size:
            self.resolution = self.model_config.image_size[0]
        self.exif = config.exif or self.preprocessing.exif
        self.loss = self.card.loss or "softmax"
        self.workers = config.workers or os.cpu_count()

    def eval_batches(self, split: Split, batch: int) -> Iterator[dict[str, np.ndarray]]:
        """Every example of `split`, at the model's resolution or else the BiT-HyperRule's for these images."""
        crop_px = self.resolution or hyperrule.resolution(typical_size(split))[1]
        batches = EvalBatches(split, self.preprocessing_at(crop_px), min(batch, len(split)))
        return follow(prefetch(batches, range(len(batches)), self.workers), len(batches), "images")

    def tell(self, text: str) -> None:
        """Print a line of results. Where nobody reads them, what --output asks for is still done, and else nothing more."""
        (show if self.config.output else result)(text)

    def preprocessing_at(self, crop_px: int) -> Preprocessing:
        """What the card says of a resolution, or --eval_resize."""
        wanted = self.config.eval_resize
        if wanted is None:
            return self.preprocessing.at(crop_px)
        if 0 < wanted < crop_px:
            raise UserError(
                f"--eval_resize {wanted} is smaller than the {crop_px} px that the model sees; give more, or 0."
            )
        return dataclasses.replace(self.preprocessing, resolution=crop_px, eval_resize=wanted)


class Evaluation(Inference):
    """`evaluate`: splits of a dataset through one model."""

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        super().__init__(config)
        dataset = open_turned(config, open_torchvision, self.exif)
        self.split_names = list(dict.fromkeys((config.split or dataset.held_out).split(",")))
        for name in self.split_names:
            if name not in dataset.splits:
                raise UserError(f"{dataset.name} has no split {name!r}; choose of {', '.join(dataset.splits)}.")
        dataset = checked(dataset, config, self.split_names)
        for line in dataset.notes:
            note(line)
        self.splits, self.is_imagenet = self.matched(dataset), is_imagenet(dataset)

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits of the dataset with the model's numbers of classes: by name where it has only some, or another order.

        Raises UserError when the head is for other classes than the dataset's.
        """
        num_classes, known = self.model_config.num_classes, self.card.class_names or ()
        as_many, names = dataset.num_classes == num_classes, dataset.class_names
        if as_many and (len(known) != num_classes or list(names) == list(known)):
            return dataset.splits
        if len(known) != num_classes:
            raise UserError(
                f"The weights know {num_classes} classes and {dataset.name} has {dataset.num_classes}; evaluate weights "
                "that were trained on this dataset."
            )
        try:
            numbers = match_classes(dataset.name, names, known)
        except UserError:
            if not as_many:
                raise
            numbers = ()
        if as_many and len(set(numbers)) < num_classes:
            if not all(map(WORDNET_ID.fullmatch, names)):  # which stand in the order of ImageNet's classes
                note(f"{dataset.name} calls its classes otherwise than the weights, so they are taken in their order.")
            return dataset.splits
        note(f"{dataset.name} has {dataset.num_classes} of the {num_classes:,} classes that the weights know.")
        return {name: split.renumber(numbers, num_classes) for name, split in dataset.splits.items()}

    def batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Every example of a split, once."""
        return self.eval_batches(self.splits[split], self.config.batch_eval)

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads."""
        told = accuracies(result, self.model_config.num_classes, self.expected(split))
        self.tell(
            f"{self.config.dataset} {split}, {self.splits[split].num_labelled:,} images: "
            f"{told}, loss {result['loss']:.6f}"
        )

    def expected(self, split: str) -> str:
        """The published accuracy of these weights on these images, if there is one."""
        accuracy = self.published and self.published.accuracy
        if not accuracy or not self.is_imagenet or split != "val":
            return ""
        return f" (published: {accuracy:.2%} at {self.published.resolution} px)"

    def write(self, split: str, outputs: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Write features and logits as SPLIT.npz in the folder --output, and show what the scores add up to."""
        path, images, sums = Path(self.config.output) / f"{split}.npz", self.splits[split], np.zeros(4)

        def written() -> Iterator[Outputs]:
            for features, logits, score in outputs:
                sums[:] += add_up(score)
                yield features, logits

        write_outputs(path, unpadded(written(), len(images)), len(images), labels=images.targets(slice(None)))
        self.show(split, averages(sums))
        self.tell(f"Wrote {path}")


def is_imagenet(dataset: Dataset) -> bool:
    """Whether the published accuracies are of the images in `val`: by the dataset's name, or its classes and their number."""
    if dataset.name in ("imagenet2012", "tfds:imagenet2012"):
        return True
    wordnet = all(map(WORDNET_ID.fullmatch, dataset.class_names))
    return wordnet and dataset.num_classes == 1000 and len(dataset.splits.get("val", ())) == 50_000


class Prediction(Inference):
    """`predict`: image files through one model."""

    def __init__(self, config: PredictConfig):
        self.files = find_images(config.images)
        super().__init__(config)
        if config.output and Path(config.output).suffix != ".npz":
            raise UserError(f"--output {config.output} does not end in .npz; give such a name.")
        self.split = self.checked()
        self.class_names = self.card.class_names
        if self.class_names is None:
            self.class_names = [f"class {number}" for number in range(self.model_config.num_classes)]
            note("No card with class names lies beside the weights: classes are shown by number.")

    def checked(self) -> Split:
        """The split of `files`, and `files` without those that cannot be decoded where --on_broken_image skips them."""

        def split_of(files: list[Path]) -> Split:
            labels = np.zeros(len(files), np.int32)
            return Split(lambda i: read_regular(files[i]), labels, lambda i: str(files[i]), self.exif)

        splits = {"images": split_of(self.files)}
        if self.config.on_broken_image == "stop":
            refuse_broken(splits, self.workers)
        else:
            kept = without_broken(Dataset("the images given", (), splits), self.workers)
            for line in kept.notes:
                note(line)
            places = [kept.splits["images"].describe(i) for i in range(len(kept.splits["images"]))]
            self.files = [*map(Path, places)]
        return split_of(self.files)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Every image, once."""
        return self.eval_batches(self.split, self.config.batch_eval)

    def show(self, outputs: Iterator[Outputs]) -> None:
        """Print the top classes of every image and write --output."""
        shown = self.print_top(unpadded(outputs, len(self.files)))
        if self.config.output:
            write_outputs(Path(self.config.output), shown, len(self.files), files=[*map(str, self.files)])
        else:
            collections.deque(shown, maxlen=0)

    def print_top(self, outputs: Iterator[Outputs]) -> Iterator[Outputs]:
        """The same, printed as they pass."""
        files = iter(self.files)
        for features, logits in outputs:
            for row in logits:
                self.tell(f"{printable(next(files))}: {self.describe(row)}")
            yield features, logits

    def describe(self, logits: np.ndarray) -> str:
        """`cat 98.1%, dog 1.2%, ...` of one image's logits [K]."""
        top = likeliest(logits, self.class_names, self.config.top)
        return ", ".join(f"{name} {share:.1%}" for name, share in top)


def likeliest(logits: np.ndarray, names: list[str] | tuple[str, ...], top: int) -> list[tuple[str, float]]:
    """The `top` classes of one image's logits [K], with their probabilities; of equal ones the first."""
    scores = np.exp(logits.astype(np.float64) - logits.max())
    shares = scores / scores.sum()
    return [(names[k], float(shares[k])) for k in np.argsort(-scores, kind="stable")[:top]]


def unpadded(outputs: Iterator[Outputs], count: int) -> Iterator[Outputs]:
    """The same for `count` images, without the padding of the last batch."""
    for features, logits in outputs:
        yield features[:count], logits[:count]
        count -= len(logits)


def write_outputs(path: Path, outputs: Iterator[Outputs], count: int, **columns: Sequence) -> None:
    """Write an .npz of `features` and `logits` of `count` images, of arrays and lists of text; memory holds one batch.

    UserError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as kept:  # has no name, so nothing of it is ever left
            write_atomically(path, lambda file: fill_outputs(file, kept, outputs, count, columns))
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror or error}); free or choose another place.") from error


def fill_outputs(
    file: BinaryIO, kept: BinaryIO, outputs: Iterator[Outputs], count: int, columns: dict[str, Sequence]
) -> None:
    """Write features as they come, while `kept` keeps the logits for later: an archive is written front to back."""
    with zipfile.ZipFile(file, "w") as archive:
        first = next(outputs)
        layout = {name: (rows.dtype, (count, *rows.shape[1:])) for name, rows in zip(("features", "logits"), first)}
        with npz.open_member(archive, "features", *layout["features"]) as member:
            for features, logits in itertools.chain([first], outputs):
                member.write(features.tobytes())
                kept.write(logits.tobytes())
        kept.seek(0)
        with npz.open_member(archive, "logits", *layout["logits"]) as member:
            shutil.copyfileobj(kept, member)
        for name, rows in columns.items():
            dtype = rows.dtype if isinstance(rows, np.ndarray) else np.dtype(f"<U{max(map(len, rows))}")
            with npz.open_member(archive, name, dtype, (count, *np.shape(rows[:1])[1:])) as member:
                for start in range(0, count, ROWS):
                    member.write(np.asarray(rows[start : start + ROWS], dtype).tobytes())


def find_images(paths: tuple[str, ...]) -> list[Path]:
    """Image files in the order given; a folder stands for the images below it, in the order of their names.

    UserError where there are none.
    """
    files = []
    for path in paths:
        if os.path.isdir(path):
            unused = Unused()
            try:
                found = sorted(Path(path, file) for file in image_files(path.rstrip("/") or "/", unused))
            except OSError as error:
                raise UserError(f"The folder {path} cannot be read ({error}); name another.") from error
            if not found:
                there = f" but {unused}" if unused.kinds else ""
                raise UserError(f"The folder {path} holds no image{there}; name another.")
            if unused.kinds:
                note(f"Not used in {path}: {unused}.")
            files += found
        elif os.path.isfile(path):
            files.append(Path(path))
        else:
            raise UserError(f"There is no image or folder {shortened(path)!r}; name an existing one.")
    return files
