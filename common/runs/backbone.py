"""`evaluate --features`: what a backbone makes of images, for probes (common/probe.py), whether it has a head or not."""

from pathlib import Path

import numpy as np

from common.config import EvaluateConfig
from common.data.split import Dataset, Split
from common.evaluation.evaluator import Evaluator, Kept, Prepared
from common.evaluation.features import write_arrays
from common.models import FAMILIES, ViTConfig, VqVaeConfig
from common.runs.inference import Evaluation
from common.system.errors import UserError


class Backbone(Evaluation):
    """Images with labels, of which only the features are wanted."""

    computes_scores = False

    def check_model(self) -> None:
        """Raise UserError for features that the model has not, and for what belongs to judging it."""
        config = self.config
        self.tower = self.model_config.children.get("image", self.model_config)
        for name in ("evaluator", "prompts", "vocabulary"):
            if getattr(config, name) != getattr(EvaluateConfig, name):
                raise UserError(
                    f"--{name} judges a model, and --features writes what a probe judges; leave one of them off."
                )
        if not config.output:
            raise UserError(f"--features {config.features} writes files; give --output, a folder for them.")
        if isinstance(self.model_config, VqVaeConfig):
            raise UserError(f"--features are of images, and {config.model} sees their maps, too; choose another model.")
        if config.features == "pooled":
            return
        if not isinstance(self.tower, ViTConfig):
            family = FAMILIES[type(self.tower)].name
            raise UserError(
                f"--features {config.features} are of the tokens of a ViT, and {config.model} is of the family {family}; "
                "give --features pooled."
            )
        if config.features != "patches" and not self.tower.num_cls:
            raise UserError(
                f"--features {config.features} are of a class token, and {config.weights} has none; give --features patches, or "
                "pooled."
            )

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are, whatever classes the model knows. Raises UserError for images without labels."""
        dataset.check_labels(f"--features {self.config.features}")
        return dataset.splits

    def evaluator(self, split: str) -> Evaluator:
        """What keeps the features of a split."""
        output = "pooled" if self.config.features == "pooled" else "tokens"
        self.kept = Kept(split, {output: self.image_batches(self.splits[split])})
        return Prepared(self.kept, self.prepared)

    def show(self, split: str, result: dict[str, float]) -> None:
        """Write features [N, D] and labels as SPLIT.npz in the folder --output."""
        (output,) = self.kept.batches
        features, images = self.kept.column(output, "features"), self.splits[split]
        if self.config.features in ("class", "patches"):
            features, mean = np.split(features, [-self.tower.width], 1)
            features = mean if self.config.features == "patches" else features
        path = Path(self.config.output) / f"{split}.npz"
        write_arrays(path, {"features": features, "labels": images.labels})
        self.tell(
            f"{self.config.dataset} {split}, {len(images):,} images: {features.shape[1]:,} {self.config.features} features"
        )
        self.tell(f"Wrote {path}")
