"""What `evaluate` prepares and shows of image-text models: zero-shot classification."""

from collections.abc import Sequence
from pathlib import Path

from common.config import EvaluateConfig
from common.data.batches import EvalBatches
from common.data.sources import Opener
from common.data.split import Dataset, Split
from common.data.text import open_tokenizer
from common.data.text.prompts import names_of, prompted, read_prompts
from common.data.text.text_batches import form_of, text_batches
from common.evaluation.evaluator import Evaluator, Prepared
from common.evaluation.features import write_outputs
from common.evaluation.metrics import in_words
from common.evaluation.zero_shot import ZeroShotEvaluator
from common.models import TwoTowersConfig, find_model
from common.runs.inference import Evaluation
from common.system.errors import UserError

DEFAULT_PROMPTS = "clip_paper"


class ZeroShot(Evaluation):
    """`evaluate` of an image-text model on images with classes, which it knows by prompts alone."""

    computes_scores = False

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        self.prompts = read_prompts(config.prompts or DEFAULT_PROMPTS)
        super().__init__(config, open_torchvision)
        text = self.model_config.text
        self.tokenizer = open_tokenizer(self.card.text, folder=config.bit_pretrained_dir)
        self.tokenizer.check_model(text.vocabulary if text else 0, text.length if text else self.resolution)

    def check_model(self) -> None:
        """Raise UserError for a model that takes no texts, or whose card does not say how it takes them."""
        if not isinstance(self.model_config, TwoTowersConfig):
            raise UserError(
                f"{self.config.model} takes no texts, which zero_shot compares images with; choose a model such as "
                "SigLIP-B/16-224, or --evaluator classification."
            )
        if self.card.text is None:
            raise UserError(
                f"The card of {self.config.weights} does not say how the model's texts become numbers; put the card of its "
                "training beside it."
            )

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are; their classes' names become prompts."""
        plain = self.card.text.kind == "bpe"  # CLIP was evaluated with names and prompts as they are
        names = names_of(dataset.name, dataset.class_names)
        self.texts, self.classes = prompted(names, self.prompts, canonicalize=not plain)
        self.num_classes = dataset.num_classes
        return dataset.splits

    def eval_batches(self, split: Split) -> EvalBatches:
        """Images alone."""
        batches = super().eval_batches(split)
        return EvalBatches(split, None, batches.batch, columns=batches.columns[:1])

    def text_batches(self, texts: Sequence[str]) -> EvalBatches:
        """Texts as the model takes them."""
        return text_batches(texts, self.tokenizer.encode, self.config.batch_eval, **form_of(self.tokenizer))

    def evaluator(self, split: str) -> Evaluator:
        """What judges the model on a split."""
        images, texts = self.splits[split], self.text_batches(self.texts)
        self.judge = ZeroShotEvaluator(split, self.eval_batches(images), images.labels, texts, self.classes)
        return Prepared(self.judge, self.prepared)

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads, and write the embeddings where --output asks for them."""
        told = in_words(result, self.num_classes, digits=6)
        self.tell(
            f"{self.config.dataset} {split}, {self.splits[split].num_labelled:,} images, {len(self.prompts)} prompts a class: {told}"
        )
        if self.config.output:
            path, images = Path(self.config.output) / f"{split}.npz", self.splits[split]
            write_outputs(path, self.judge.outputs(), len(images), labels=images.targets(slice(None)))
            self.tell(f"Wrote {path}")


EVALUATIONS = {"classification": Evaluation, "zero_shot": ZeroShot}


def evaluation(config: EvaluateConfig, open_torchvision: Opener | None = None) -> Evaluation:
    """The job of `evaluate`: by --evaluator, or else by what the model is. Raises UserError."""
    takes_texts = isinstance(find_model(config.model).config(), TwoTowersConfig)
    kind = config.evaluator or ("zero_shot" if takes_texts else "classification")
    if config.prompts and kind != "zero_shot":
        raise UserError(f"--prompts are for --evaluator zero_shot, not {kind}; leave one of them off.")
    return EVALUATIONS[kind](config, open_torchvision)
