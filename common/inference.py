"""What `evaluate` and `predict` prepare before an engine computes, and what they show of its numbers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common import hyperrule, images, weights
from common.batches import EvalBatches, prefetch
from common.config import EvaluateConfig, ModelConfig, PredictConfig
from common.datasets import Dataset, Opener, Split, open_dataset, typical_size
from common.errors import UserError
from common.files import write_atomically
from common.formats.source import card_path, read_model
from common.models import find_model
from common.progress import follow


class Inference:
    """The model of a command: `model_config`, `arrays`, and the `card` beside its weights file."""

    def __init__(self, config: ModelConfig):
        model = find_model(config.model)
        path = weights.choose_file(model, config.weights, config.bit_pretrained_dir)
        self.card = read_card(path) if path else {}
        size = (config.resolution, config.resolution) if config.resolution else None
        self.model_config, self.arrays = weights.starting_values(model, path, image_size=size, say=print)
        self.resolution = config.resolution or self.card.get("resolution") or model.resolution
        if hasattr(self.model_config, "image_size"):
            self.resolution = self.model_config.image_size[0]
        self.resize_kind, self.eval_resize = self.card.get("resize_kind", "bilinear"), self.card.get("eval_resize", 0)
        self.workers = config.workers or os.cpu_count()

    def eval_batches(self, split: Split, batch: int) -> Iterator[dict[str, np.ndarray]]:
        """Every example of `split`, at the model's resolution or else the BiT-HyperRule's for these images."""
        crop_px = self.resolution or hyperrule.resolution(typical_size(split))[1]
        # At another resolution than the card's, the middle of the image that the model sees is the same.
        eval_resize = round(self.eval_resize * crop_px / self.card.get("resolution", crop_px))
        batches = EvalBatches(split, crop_px, self.resize_kind, min(batch, len(split)), eval_resize)
        return follow(prefetch(batches, range(len(batches)), self.workers), len(batches), "images")


class Evaluation(Inference):
    """`evaluate`: one split of a dataset through one model."""

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        super().__init__(config)
        dataset = open_dataset(config.dataset, config.datadir, config.tfds_data_dir, open_torchvision)
        self.config, self.split_name = config, config.split or dataset.held_out
        if self.split_name not in dataset.splits:
            raise UserError(
                f"{dataset.name} has no split {self.split_name!r}; choose one of {', '.join(dataset.splits)}."
            )
        self.check_classes(dataset)
        self.split = dataset.splits[self.split_name]

    def check_classes(self, dataset: Dataset) -> None:
        """Raise UserError when the head is for other classes than the dataset's."""
        if self.model_config.num_classes != dataset.num_classes:
            raise UserError(
                f"The weights know {self.model_config.num_classes} classes and {dataset.name} has "
                f"{dataset.num_classes}; evaluate weights that were trained on this dataset."
            )

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Every example of the split, once."""
        return self.eval_batches(self.split, self.config.batch_eval)

    def show(self, result: dict[str, float]) -> None:
        """Print one line a person reads."""
        print(
            f"{self.config.dataset} {self.split_name}, {len(self.split):,} images: "
            f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, loss {result['loss']:.6f}"
        )


class Prediction(Inference):
    """`predict`: image files through one model."""

    def __init__(self, config: PredictConfig):
        super().__init__(config)
        self.config, self.files = config, find_images(config.images)
        if config.output and Path(config.output).suffix != ".npz":
            raise UserError(f"--output {config.output} does not end in .npz; give such a name.")
        labels = np.zeros(len(self.files), np.int32)
        self.split = Split(lambda i: self.files[i].read_bytes(), labels, lambda i: str(self.files[i]))
        self.class_names = self.card.get("class_names")
        if self.class_names is None and config.weights == "pretrained":
            self.class_names = find_model(config.model).class_names
        if self.class_names is None:
            self.class_names = [f"class {number}" for number in range(self.model_config.num_classes)]
            print("No card with class names lies beside the weights: classes are shown by number.")

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Every image, once."""
        return self.eval_batches(self.split, self.config.batch_eval)

    def show(self, outputs: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        """Print the top classes of every image and write --output, from (features [B, D], logits [B, K]) of batches."""
        all_features, all_logits, first = [], [], 0
        for features, logits in outputs:
            count = min(len(logits), len(self.files) - first)  # the last batch is padded
            all_features.append(features[:count])
            all_logits.append(logits[:count])
            for file, row in zip(self.files[first : first + count], logits[:count]):
                print(f"{file}: {self.describe(row)}")
            first += count
        if self.config.output:
            columns = {"logits": np.concatenate(all_logits), "features": np.concatenate(all_features)}
            columns["files"] = np.array([str(file) for file in self.files])
            write_atomically(Path(self.config.output), lambda file: np.savez(file, **columns))

    def describe(self, logits: np.ndarray) -> str:
        """`cat 98.1%, dog 1.2%, ...` of one image's logits [K]."""
        scores = np.exp(logits.astype(np.float64) - logits.max())
        top = np.argsort(-scores, kind="stable")[: self.config.top]
        return ", ".join(f"{self.class_names[k]} {scores[k] / scores.sum():.1%}" for k in top)


def read_card(weights_file: Path) -> dict:
    """The card beside a weights file (`card.json` for a run's, `NAME.json` for NAME.npz), or an empty one.

    Of `.safetensors`, the record within or the config.json of timm or Hugging Face tells the names of the classes.
    """
    if weights_file.suffix not in (".npz", ".h5", ".hdf5"):
        return {"class_names": read_model(weights_file, values=False).class_names}
    path = card_path(weights_file)
    try:
        card = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"The card {path} is no JSON ({error}); restore or remove it.") from error
    if not isinstance(card, dict) or card.get("resize_kind", "bilinear") not in images.RESIZE_KINDS:
        raise UserError(f"The card {path} names no resize_kind of {', '.join(images.RESIZE_KINDS)}; mend or remove it.")
    eval_resize = card.get("eval_resize", 0)
    if type(eval_resize) is not int or not (eval_resize == 0 or eval_resize >= card.get("resolution", 1)):
        raise UserError(
            f"The card {path} says {eval_resize!r} as eval_resize, expected 0 or at least its resolution; mend it."
        )
    return card


def find_images(paths: tuple[str, ...]) -> list[Path]:
    """Image files in the order given; a folder stands for the images below it, in the order of their names."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in images.EXTENSIONS)
            if not found:
                raise UserError(f"The folder {path} holds no image ({', '.join(images.EXTENSIONS)}); name another.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"There is no image or folder {path}; name an existing one.")
    return files
