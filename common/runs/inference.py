"""What `evaluate` prepares before an engine computes, and what it shows of its numbers; what it shares with `predict`."""

import copy
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common import weights
from common.config import EvaluateConfig, PredictConfig
from common.data.batches import EvalBatches, prefetch
from common.data.catalogue import listed
from common.data.checked import checked, open_turned
from common.data.columns import Column, labels
from common.data.naflex import patch_columns
from common.data.sources import Opener
from common.data.split import Dataset, Split, typical_size
from common.data.text.prompts import WORDNET_ID
from common.evaluation.classification import ClassificationEvaluator
from common.evaluation.evaluator import Evaluator, Prepared, Rows
from common.evaluation.features import Outputs, unpadded, write_outputs
from common.evaluation.match import match_classes
from common.evaluation.metrics import in_words
from common.models import DecoderConfig, PublishedModel, VqVaeConfig, find_model
from common.models.cards import Preprocessing
from common.recipes import hyperrule
from common.recipes.task import Classification
from common.system.errors import UserError, shortened
from common.system.files import check_place, in_one_word
from common.system.progress import follow, note, result, show
from common.tasks.start import Start

INSTEAD = {  # of a head of classes
    DecoderConfig: "give --evaluator scoring, by which texts tell classes",
    VqVaeConfig: "give --evaluator maps",
}


class Inference:
    """The model of a command: `model_config`, `arrays`, and the `card` beside its weights file, or the manifest's."""

    def __init__(self, config: EvaluateConfig | PredictConfig):
        self.frozen: dict[str, Start] = {}  # models beside it, by their names in a run
        model = self.meant(config)
        check_sizes(config, keeps_ratio=model.config().naflex)
        path = weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        self.config, self.published = config, model if config.weights == "pretrained" else None
        if path:
            self.check_file(path)
        size = (config.resolution, config.resolution) if config.resolution else None
        lines = []
        start = weights.starting_values(
            model,
            path,
            image_size=size,
            patch_size=config.patch_size,
            pretrained=bool(self.published),
            say=lines.append,
        )
        self.model_config, self.arrays, self.card = weights.of_one_size(start, lambda line: None)
        check_tokens(config, self.model_config.naflex)
        check_sizes(config, keeps_ratio=self.model_config.naflex)
        self.check_model()
        for line in lines:
            note(line)
        self.preprocessing = self.card.preprocessing
        if config.eval_resize_kind:
            self.preprocessing = dataclasses.replace(self.preprocessing, resize_kind=config.eval_resize_kind)
        self.resolution = config.resolution or self.preprocessing.resolution or model.resolution
        if self.model_config.image_size:
            self.resolution = self.model_config.image_size[0]
        self.exif = config.exif or self.preprocessing.exif
        self.task = Classification(self.card.loss or "softmax")
        self.workers = config.workers or os.cpu_count()

    def meant(self, config: EvaluateConfig | PredictConfig) -> PublishedModel:
        """The model that --model names. Raises UserError."""
        return find_model(config.model)

    def check_file(self, path: Path) -> None:
        """Raise UserError for weights that are of no use to the command, whatever their sizes."""

    def check_model(self) -> None:
        """Raise UserError for a model that cannot do what the command is for."""
        if self.config.vocabulary:
            raise UserError(f"--vocabulary is for texts, which {self.config.model} does not take here; leave it off.")
        if self.model_config.num_classes is None and (advice := INSTEAD.get(type(self.model_config))):
            raise UserError(f"{self.config.model} has no head to tell classes with; {advice}.")
        if self.model_config.num_classes is None:
            raise UserError(
                f"{self.config.weights} has no head to tell classes with; train one with `train --weights`, or judge its "
                "features by `evaluate --features`."
            )

    def eval_batches(self, split: Split) -> EvalBatches:
        """Every example of `split`, at the model's resolution or else the BiT-HyperRule's for these images."""
        batch = min(self.config.batch_eval, len(split))
        if self.model_config.naflex:
            return EvalBatches(split, None, batch, columns=(*self.patch_columns(), labels(split)))
        crop_px = self.resolution or hyperrule.resolution(typical_size(split))[1]
        return EvalBatches(split, self.preprocessing_at(crop_px), batch)

    def image_batches(self, split: Split, *columns: Column) -> EvalBatches:
        """The same without labels: images, and these columns."""
        batches = self.eval_batches(split)
        return EvalBatches(split, None, batches.batch, columns=(*batches.columns[:-1], *columns))

    def patch_columns(self) -> tuple[Column, ...]:
        """What a NaFlex sees of an image."""
        tower = self.model_config.children.get("image", self.model_config)
        return patch_columns(tower.patch_size, self.tokens, self.preprocessing.resize_kind)

    @property
    def tokens(self) -> int:
        """The most patches of an image that keeps its aspect ratio: --tokens, or the card's, or as many as there are positions."""
        tower = self.model_config.children.get("image", self.model_config)
        return self.config.tokens or self.preprocessing.tokens or math.prod(tower.grid)

    def prepared(self, batches: EvalBatches) -> Iterator[Rows]:
        """The batches, prepared by threads and shown as they pass."""
        return follow(prefetch(batches, range(len(batches)), self.workers), len(batches), "images")

    def tell(self, text: str) -> None:
        """Print a line of results. Where nobody reads them, what --output asks for is still done, and else nothing more."""
        (show if self.config.output else result)(text)

    def preprocessing_at(self, crop_px: int) -> Preprocessing:
        """The card's number for a resolution, or --eval_resize."""
        wanted = self.config.eval_resize
        if wanted is None:
            return self.preprocessing.at(crop_px)
        if 0 < wanted < crop_px:
            raise UserError(
                f"--eval_resize {wanted} is smaller than the {crop_px} px that the model sees; give more, or 0."
            )
        return dataclasses.replace(self.preprocessing, resolution=crop_px, eval_resize=wanted)


class Evaluation(Inference):
    """`evaluate`: splits of a dataset through one model; `sets` holds this and the same for every other dataset."""

    computes_scores = True  # whether the engine gives features and scores in one pass

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        super().__init__(config)
        if config.output:
            check_place("--output", Path(config.output), is_folder=True)
        names = listed(config.dataset)
        self.sets = [self, *(copy.copy(self) for _ in names[1:])]
        for own, name in zip(self.sets, names):
            own.config = dataclasses.replace(config, dataset=name, output=own_folder(name, names, config.output))
            own.open(open_torchvision)

    def open(self, open_torchvision: Opener | None) -> None:
        """Find the splits of the dataset. Raises UserError."""
        config, dataset = self.config, open_turned(self.config, open_torchvision, self.exif)
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
        dataset.check_labels()
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

    def batches(self, split: str) -> Iterator[Rows]:
        """Every example of a split, once."""
        return self.prepared(self.eval_batches(self.splits[split]))

    def evaluator(self, split: str) -> Evaluator:
        """What judges the model on a split."""
        return Prepared(ClassificationEvaluator(split, self.eval_batches(self.splits[split])), self.prepared)

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads."""
        told = in_words(result, self.model_config.num_classes, digits=6, published=self.expected(split))
        self.tell(f"{self.config.dataset} {split}, {self.splits[split].num_labelled:,} images: {told}")

    def expected(self, split: str) -> str:
        """The published accuracy of these weights on these images, if there is one."""
        accuracy = self.published and self.published.accuracy
        if not accuracy or not self.is_imagenet or split != "val":
            return ""
        return f" (published: {accuracy:.2%} at {self.published.resolution} px)"

    def write(self, split: str, outputs: Iterator[tuple[np.ndarray, np.ndarray, Rows]]) -> None:
        """Write features and logits as SPLIT.npz in the folder --output, and show what the scores add up to."""
        path, images = Path(self.config.output) / f"{split}.npz", self.splits[split]
        evaluator = self.evaluator(split)

        def written() -> Iterator[Outputs]:
            for features, logits, rows in outputs:
                evaluator.add("scores", rows)
                yield features, logits

        write_outputs(path, unpadded(written(), len(images)), len(images), labels=images.labels)
        self.show(split, evaluator.result())
        self.tell(f"Wrote {path}")


def check_tokens(config: EvaluateConfig | PredictConfig, keeps_ratio: bool) -> None:
    """Raise UserError for --tokens of a model of one size of images."""
    if config.tokens and not keeps_ratio:
        raise UserError(
            f"--tokens are the patches of images that keep their aspect ratio and {config.model} squashes or crops them; "
            "choose a model such as SigLIP2-B/16-naflex, or leave them out."
        )


def check_sizes(config: EvaluateConfig | PredictConfig, keeps_ratio: bool) -> None:
    """Raise UserError for a size of images of a model that keeps their aspect ratio."""
    for name in ("resolution", "eval_resize", "patch_size") if keeps_ratio else ():
        if getattr(config, name) is not None:
            raise UserError(
                f"--{name} is for models of one size of images and {config.model} keeps their aspect ratio; give --tokens "
                "in its place."
            )


def own_folder(name: str, names: Sequence[str], output: str | None) -> str | None:
    """Where --output keeps what is of the data set `name`: of one alone, the folder itself. Raises UserError."""
    if output is None or len(names) == 1:
        return output
    places = [in_one_word(Path(name).name) for name in names]
    place = in_one_word(Path(name).name)
    if places.count(place) > 1:
        raise UserError(
            f"Several data sets would be kept in {Path(output) / place}; evaluate {shortened(name)!r} by itself, with another "
            "--output."
        )
    return str(Path(output) / place)


def is_imagenet(dataset: Dataset) -> bool:
    """Whether the published accuracies are of the images in `val`: by the dataset's name, or its classes and their number."""
    if dataset.name in ("imagenet2012", "tfds:imagenet2012"):
        return True
    wordnet = all(map(WORDNET_ID.fullmatch, dataset.class_names))
    return wordnet and dataset.num_classes == 1000 and len(dataset.splits.get("val", ())) == 50_000
