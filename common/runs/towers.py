"""What `evaluate` and `predict` prepare and show of image-text models: classes, captions and other texts of images."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from common.config import EvaluateConfig
from common.data.batches import EvalBatches
from common.data.sources import Opener
from common.data.split import Dataset, Split
from common.data.text import Renderer, Tokenizer, fitting, open_tokenizer
from common.data.text.prompts import doubts, prompts_of, read_prompts
from common.data.text.text_batches import form_of, text_batches
from common.evaluation.embeddings import Embeddings, similarities
from common.evaluation.evaluator import Evaluator, Prepared
from common.evaluation.features import Outputs, write_arrays, write_outputs
from common.evaluation.metrics import in_words
from common.evaluation.retrieval import RetrievalEvaluator
from common.evaluation.zero_shot import ZeroShotEvaluator
from common.models import TwoTowersConfig
from common.runs.inference import Evaluation, Inference
from common.runs.prediction import Prediction
from common.system.errors import UserError, printable, shortened
from common.system.progress import note

DEFAULT_PROMPTS = "clip_paper"


def check_texts(job: Inference, use: str) -> None:
    """Raise UserError for a model that takes no texts, or whose card does not say how it takes them."""
    if not isinstance(job.model_config, TwoTowersConfig):
        raise UserError(
            f"{job.config.model} takes no texts, {use}; choose a model such as SigLIP-B/16-224, or leave texts out."
        )
    check_card(job)


def check_card(job: Inference) -> None:
    """Raise UserError for a card that does not say how the model's texts become numbers."""
    if job.card.text is None:
        raise UserError(
            f"The card of {job.config.weights} does not say how the model's texts become numbers; put the card of its "
            "training beside it."
        )


def tokenizer_of(job: Inference) -> Tokenizer | Renderer:
    """What makes numbers of the model's texts. Raises UserError where its vocabulary is missing or another model's."""
    found = open_tokenizer(job.card.text, job.config.vocabulary, job.config.bit_pretrained_dir)
    return fitting(found, job.model_config, job.resolution)


class TextEvaluation(Evaluation):
    """`evaluate` of a model with texts; a subclass has `judge_of(name, split)`, the evaluator of a split."""

    computes_scores = False

    def open(self, open_torchvision: Opener | None) -> None:
        """Find the splits of the dataset, and the vocabulary. Raises UserError."""
        super().open(open_torchvision)
        self.tokenizer = tokenizer_of(self)

    def evaluator(self, split: str) -> Evaluator:
        """What judges the model on a split."""
        self.judge = self.judge_of(split, self.splits[split])
        return Prepared(self.judge, self.prepared)

    def check_captions(self, dataset: Dataset, use: str, instead: str) -> None:
        """Raise UserError for images without captions, which `use` says what they are for; `instead` is an evaluator of classes."""
        other = f", or --evaluator {instead}" if dataset.class_names else ""
        for name in self.split_names:
            if dataset.splits[name].captions is None:
                raise UserError(
                    f"The images of {dataset.name} {name} have no captions, which {use}; choose a dataset with captions{other}."
                )

    def name_classes(self, dataset: Dataset) -> None:
        """Make `texts` of the classes' names, and `classes`, that of each. Raises UserError for images without classes."""
        dataset.check_labels(f"--evaluator {self.config.evaluator}")
        for line in doubts(dataset):
            note(line)
        self.texts, self.classes = prompts_of(dataset, self.prompts, self.card.text)
        self.num_classes = dataset.num_classes


class Towers(TextEvaluation):
    """`evaluate` of an image-text model: embeddings of images and of texts, and what an evaluator makes of both.

    A subclass has, further, `seen(split)`, the number of images and texts in words; and `write_embeddings(path, split)`,
    which keeps what the evaluator has compared.
    """

    def check_model(self) -> None:
        """Raise UserError for a model that takes no texts, or whose card does not say how it takes them."""
        check_texts(self, f"which {self.config.evaluator} compares images with")

    def text_batches(self, texts: Sequence[str]) -> EvalBatches:
        """Texts as the model takes them."""
        return text_batches(texts, self.tokenizer.encode, self.config.batch_eval, **form_of(self.tokenizer))

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads, and write the embeddings where --output asks for them."""
        images = self.splits[split]
        self.tell(f"{self.config.dataset} {split}, {self.seen(images)}: {in_words(result, self.num_classes, digits=6)}")
        if self.config.output:
            path = Path(self.config.output) / f"{split}.npz"
            self.write_embeddings(path, images)
            self.tell(f"Wrote {path}")


class ZeroShot(Towers):
    """Images with classes, which the model knows by prompts alone."""

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        self.prompts = read_prompts(config.prompts or DEFAULT_PROMPTS)
        super().__init__(config, open_torchvision)

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are; their classes' names become prompts. Raises UserError for images without classes."""
        self.name_classes(dataset)
        return dataset.splits

    def judge_of(self, name: str, split: Split) -> ZeroShotEvaluator:
        """Top-1 and top-5."""
        images, texts = self.image_batches(split), self.text_batches(self.texts)
        return ZeroShotEvaluator(name, images, split.labels, texts, self.classes)

    def seen(self, split: Split) -> str:
        """Images with a class, and prompts."""
        return f"{split.num_labelled:,} images, {len(self.prompts)} prompts a class"

    def write_embeddings(self, path: Path, split: Split) -> None:
        """As of a classifier: features [N, E], logits [N, K], labels."""
        write_outputs(path, self.judge.outputs(), len(split), labels=split.labels)


class Retrieval(Towers):
    """Images with captions: which of them belong together."""

    num_classes = 0

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are. Raises UserError for images without captions."""
        self.check_captions(dataset, "retrieval is of", "zero_shot")
        return dataset.splits

    def judge_of(self, name: str, split: Split) -> RetrievalEvaluator:
        """Recalls, both ways."""
        texts = self.text_batches(list(chain.from_iterable(split.captions)))
        return RetrievalEvaluator(name, self.image_batches(split), split.captions.images_of, texts)

    def seen(self, split: Split) -> str:
        """Images and texts."""
        return f"{len(split):,} images, {len(split.captions.images_of):,} texts"

    def write_embeddings(self, path: Path, split: Split) -> None:
        """features [N, E] of images, texts [M, E], images_of [M] the image of each text; labels, where there are classes."""
        columns = {"features": "image_embeddings", "texts": "text_embeddings"}
        arrays = {name: self.judge.column(output) for name, output in columns.items()}
        labels = {"labels": split.labels} if split.num_labelled else {}
        write_arrays(path, arrays | {"images_of": split.captions.images_of} | labels)


class Comparison(Prediction):
    """`predict` of an image-text model: how similar image files are to the texts of --texts."""

    computes_scores = False

    def check_model(self) -> None:
        """Raise UserError for a model that takes no texts, or whose card does not say how it takes them."""
        check_texts(self, "which --texts are")

    def names(self) -> Sequence[str]:
        """The texts. Raises UserError where there are none, or one is empty or there twice."""
        texts = self.config.texts or ()
        blank = next((text for text in texts if not text.strip()), None)
        twice = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
        if blank is not None:
            raise UserError("One of --texts is empty, of which no image can be; write it, or leave it out.")
        if twice is not None:
            raise UserError(f"--texts name {shortened(printable(twice))!r} twice; give every text once.")
        if not texts:
            raise UserError(
                f"{self.config.model} compares images with texts and there are none; give --texts, such as --texts cat dog -- "
                f"{self.config.images[0]}."
            )
        return self.config.texts

    def evaluator(self) -> Evaluator:
        """What keeps the embeddings of the texts and of every image."""
        images, tokenizer = self.image_batches(self.split), tokenizer_of(self)
        texts = text_batches(self.class_names, tokenizer.encode, self.config.batch_eval, **form_of(tokenizer))
        self.embeddings = Embeddings("images", images, texts)
        return Prepared(self.embeddings, self.prepared)

    def outputs(self) -> Iterator[Outputs]:
        """Embeddings [N, E] of the images and logits [N, T]: exp(t) * similarity + b."""
        images, texts = (self.embeddings.column(name) for name in ("image_embeddings", "text_embeddings"))
        scale, bias = (self.embeddings.column("image_embeddings", name)[:, None] for name in ("scale", "bias"))
        yield images, scale * similarities(images, texts) + bias

    def likeliest(self, logits: np.ndarray) -> list[tuple[str, float]]:
        """The --top texts: each by itself after the sigmoid loss (SigLIP), or as one of them after the softmax loss (CLIP)."""
        if self.card.loss != "sigmoid":
            return super().likeliest(logits)
        shares = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return [(self.class_names[k], float(shares[k])) for k in np.argsort(-shares, kind="stable")[: self.config.top]]
