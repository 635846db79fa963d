"""What `evaluate` and `predict` prepare and show of models that predict every pixel: of maps through codes, or of codes that are written."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.config import EvaluateConfig, PredictConfig
from common.data.batches import EvalBatches
from common.data.columns import Column
from common.data.sources import Opener
from common.data.split import Dataset, Split
from common.data.targets import TARGETS, Truths, check_maps, eval_maps, eval_shown
from common.evaluation.dense import MapEvaluator, in_parts
from common.evaluation.evaluator import Evaluator, Prepared
from common.evaluation.features import Growing, write_arrays
from common.evaluation.metrics import in_words
from common.evaluation.shown import MOST_SHOWN, Shown, line
from common.models import DecoderConfig, PublishedModel, VqVaeConfig
from common.models.cards import Preprocessing
from common.recipes.choices import Target
from common.runs.inference import Evaluation, Inference
from common.runs.prediction import Prediction
from common.runs.writers import how
from common.system.errors import UserError, printable
from common.system.files import write_atomically
from common.tasks.coded import MAPS, ORACLE, check_codes, codes, read_oracle, seeing, shown, sizes


class Predicting(Inference):
    """What has maps predicted: a model of maps, or one that writes codes beside its --oracle."""

    target: Target
    maker: VqVaeConfig  # of the maps

    def meant(self, config: EvaluateConfig | PredictConfig) -> PublishedModel:
        """The model of --model; of one that writes, for the codes of --oracle. Raises UserError where one of them is of no use."""
        row = super().meant(config)
        kind = type(row.config())
        if kind is not DecoderConfig and (config.oracle or kind is not VqVaeConfig):
            raise UserError(
                f"{config.model} writes no codes of maps, which {'--oracle' if config.oracle else '--evaluator maps'} is for; leave "
                "it out, or choose a model such as VTT-T/8."
            )
        if kind is VqVaeConfig:
            return row
        if not config.oracle and row.text:
            raise UserError(
                f"{config.weights} writes texts and no codes of maps; give --evaluator likelihood, captions or scoring."
            )
        if not config.oracle:
            raise UserError(f"{config.model} writes codes of maps; name with --oracle what makes maps of them.")
        if config.prompt:
            raise UserError(f"--prompt {config.prompt!r} begins a text, and {config.model} writes codes; leave it out.")
        self.frozen = {ORACLE: read_oracle(config.oracle, config.bit_pretrained_dir)}
        return dataclasses.replace(row, changes={**row.changes, **sizes(self.frozen[ORACLE].config)})

    def check_file(self, path: Path) -> None:
        """Raise UserError for another oracle than the one whose codes the weights were trained to write."""
        if ORACLE in self.frozen:
            check_codes(path, self.frozen[ORACLE], self.config.oracle)

    def check_model(self) -> None:
        """Learn which maps are predicted. Raises UserError for what belongs to texts."""
        if self.config.vocabulary:
            raise UserError(f"--vocabulary is for texts, and {self.config.model} predicts maps; leave it out.")
        oracle = self.frozen.get(ORACLE)
        self.maker = oracle.config if oracle else self.model_config
        self.target = self.maker.target

    def arrange(self) -> None:
        """Have the oracle see what the model sees."""
        self.seen = self.preprocessing_at(self.resolution)
        self.frozen = {name: seeing(oracle, self.seen) for name, oracle in self.frozen.items()}
        self.task = how(self.config)

    @property
    def judged(self) -> Preprocessing:
        """How what makes the maps sees images."""
        return self.frozen[ORACLE].preprocessing if self.frozen else self.seen

    def columns(self) -> tuple[Column, ...]:
        """What the models are shown; of a model of maps alone, the maps, too."""
        if self.frozen:
            seed = self.config.seed if self.config.top_p else None
            oracle = self.frozen[ORACLE]
            return *shown(self.seen, oracle), *codes(oracle.config, seed)
        return eval_shown(self.target, self.seen), eval_maps(self.target, self.seen)

    def map_batches(self, split: Split) -> EvalBatches:
        """Every example of a split."""
        return EvalBatches(split, None, min(self.config.batch_eval, len(split)), columns=self.columns())


class MapEvaluation(Predicting, Evaluation):
    """`evaluate --evaluator maps`: predicted maps against what is known."""

    computes_scores = False

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        super().__init__(config, open_torchvision)
        for own in self.sets:
            own.arrange()

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are. Raises UserError for images without such maps."""
        for name in self.split_names:
            check_maps(dataset.splits[name], self.maker, dataset.name)
        return dataset.splits

    def evaluator(self, split: str) -> Evaluator:
        """The metrics of the target."""
        images = self.splits[split]
        truths = Truths(images, self.target, self.judged)
        self.judge = MapEvaluator(
            split, self.map_batches(images), truths, shows=MOST_SHOWN if self.config.output else 0
        )
        return Prepared(self.judge, self.prepared)

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads, and write pictures where --output asks for them."""
        self.tell(f"{self.config.dataset} {split}, {len(self.splits[split]):,} images: {in_words(result, 0)}")
        if self.config.output:
            folder = Path(self.config.output) / split
            self.judge.write(folder)
            self.tell(f"Wrote {folder}")


class Pictures(Predicting, Prediction):
    """`predict` of such a model: a picture for each image file, and the numbers of all maps."""

    computes_scores = False

    def __init__(self, config: PredictConfig):
        super().__init__(config)
        self.arrange()

    def check_output(self) -> None:
        """Raise UserError where --output is no folder, or would replace one of the images."""
        self.check_folder(self.config.model, self.target)

    def names(self) -> Sequence[str]:
        """Nothing. Raises UserError for what belongs to classes and texts, and for maps of which a photograph tells nothing."""
        for name in ("texts", "vocabulary", "top", "captions"):
            if getattr(self.config, name) != getattr(PredictConfig, name):
                raise UserError(
                    f"--{name} is for classes and texts, and {self.config.model} predicts maps; leave it out."
                )
        if not self.frozen and TARGETS[self.target].needs_maps:
            raise UserError(
                f"{self.config.model} makes codes of maps of {self.target}, which photographs do not have; predict with a model "
                "that writes its codes, and --oracle."
            )
        return ()

    def evaluator(self) -> Evaluator:
        """What draws the maps as they come."""
        self.drawing = Drawing(self.map_batches(self.split), self.draw, Path(self.config.output) / "maps.npz")
        return Prepared(self.drawing, self.prepared)

    def outputs(self) -> Growing:
        """The maps of all images."""
        return self.drawing.maps

    def draw(self, number: int, predicted: np.ndarray) -> None:
        """Write the picture of an image."""
        from PIL import Image

        truths, path = Truths(self.split, self.target, self.judged), self.pictures[number]
        known = None if TARGETS[self.target].needs_maps else truths[number]
        picture = Image.fromarray(line(self.target, Shown(number, truths.image(number), known, predicted)))
        write_atomically(path, lambda file: picture.save(file, "PNG"))
        self.tell(f"Wrote {printable(path)}")

    @functools.cached_property
    def pictures(self) -> list[Path]:
        """Where that of each image is written."""
        return self.places(self.target)

    def show(self, maps: Growing) -> None:
        """Write `maps.npz`."""
        write_arrays(maps.path, {"files": self.files}, maps)


class Drawing:
    """An evaluator without metrics: `draw` gets the number and the map of every image, and `path` is where all maps will be."""

    def __init__(self, batches: EvalBatches, draw: Callable[[int, np.ndarray], None], path: Path):
        self.name, self.batches, self.draw, self.maps = "images", batches, draw, Growing("maps", path)

    def passes(self) -> Iterator[tuple[str, EvalBatches]]:
        """One for every so many images, whose maps fit into memory."""
        yield from ((MAPS, part) for part in in_parts(self.batches))

    def add(self, output: str, rows: dict[str, np.ndarray]) -> None:
        """Draw the column `map` [N, H, W, C]."""
        for predicted in rows["map"][rows["mask"]]:
            self.draw(self.maps.count, predicted)
            self.maps.add(predicted)

    def result(self) -> dict[str, float]:
        """No metric."""
        return {}

    def write(self, folder: Path) -> None:
        """Nothing more."""
