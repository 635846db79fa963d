"""What `evaluate` and `predict` prepare and show of models that write: likelihoods of texts, and texts of images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.config import EvaluateConfig, PredictConfig
from common.data.columns import Column
from common.data.sources import Opener
from common.data.split import Dataset, Split
from common.data.text import Tokenizer
from common.data.text.prompts import read_prompts
from common.data.written import behind, joined, prompts, texts, tokens_of, told
from common.evaluation.captioning import CaptionEvaluator, LikelihoodEvaluator, ScoringEvaluator
from common.evaluation.evaluator import Evaluator, Prepared
from common.evaluation.features import write_arrays
from common.evaluation.metrics import in_words
from common.models import DecoderConfig
from common.recipes.task import Captioning, Writing
from common.runs.inference import Inference
from common.runs.prediction import Prediction
from common.runs.towers import TextEvaluation, check_card, tokenizer_of
from common.system.errors import UserError, printable, shortened
from common.tasks.captioning import check_writes_texts


def check_writes(job: Inference) -> None:
    """Raise UserError for a model that does not write, or whose card does not say how its texts become numbers."""
    if not isinstance(job.model_config, DecoderConfig):
        raise UserError(f"{job.config.model} writes no texts; choose a model such as CapPa-B/16.")
    check_card(job)


def how(config: EvaluateConfig | PredictConfig) -> Captioning:
    """How the flags have texts written. Raises UserError."""
    return Captioning(writing=Writing(config.beams, config.top_p, config.sampling_temperature))


def asked(job: Inference, tokenizer: Tokenizer) -> tuple[Column, ...]:
    """What texts begin with and how they end, and the numbers that draw tokens."""
    seed = job.config.seed if job.config.top_p else None
    return prompts(tokenizer, prompt_of(job), seed)


def prompt_of(job: Inference) -> str:
    """What every text begins with: --prompt, or what the model was trained with."""
    return (job.card.prompt or "") if job.config.prompt is None else job.config.prompt


def read(job: Inference, tokenizer: Tokenizer) -> Callable[[np.ndarray], list[str]]:
    """What makes texts of tokens: without the prompt that the model was trained with, but with one that --prompt gives."""
    return behind(tokenizer, prompt_of(job) if job.config.prompt is None else "")


class Writers(TextEvaluation):
    """`evaluate` of a model that writes; a subclass has, further, `seen(split)`, what was judged in words."""

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        super().__init__(config, open_torchvision)
        self.task = how(config)
        tokens_of(self.tokenizer, prompt_of(self))  # to be refused where there is no room for a text
        if config.output and not self.writes:
            raise UserError(f"--output has nothing to hold of --evaluator {config.evaluator}; leave it out.")

    writes = False  # whether there is something to keep

    def check_file(self, path: Path) -> None:
        """Raise UserError for weights that write codes, and no texts."""
        check_writes_texts(path)

    def check_model(self) -> None:
        """Raise UserError for a model that does not write."""
        check_writes(self)

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are. Raises UserError for images without captions."""
        self.check_captions(dataset, "texts are compared with", "scoring")
        return dataset.splits

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads."""
        self.tell(f"{self.config.dataset} {split}, {self.seen(self.splits[split])}: {in_words(result, 0, digits=4)}")


class Likelihood(Writers):
    """How likely the captions of images are."""

    def judge_of(self, name: str, split: Split) -> LikelihoodEvaluator:
        """Of every caption."""
        pairs = split.pairs()
        written = texts(self.tokenizer, told(pairs, prompt_of(self)), drawn=False)
        return LikelihoodEvaluator(name, self.image_batches(pairs, *written))

    def seen(self, split: Split) -> str:
        """Images and texts."""
        return f"{len(split):,} images, {len(split.captions.images_of):,} texts"


class Captions(Writers):
    """What is written of images, against what people wrote."""

    writes = True

    def judge_of(self, name: str, split: Split) -> CaptionEvaluator:
        """CIDEr-D and BLEU."""
        batches = self.image_batches(split, *asked(self, self.tokenizer))
        return CaptionEvaluator(name, batches, read(self, self.tokenizer), split.captions)

    def seen(self, split: Split) -> str:
        """Images and references."""
        return f"{len(split):,} images, {len(split.captions.images_of):,} references"

    def show(self, split: str, result: dict[str, float]) -> None:
        """Print one line a person reads, and write the texts where --output asks for them."""
        super().show(split, result)
        if self.config.output:
            path = Path(self.config.output) / f"{split}.npz"
            write_arrays(path, kept(self.judge))
            self.tell(f"Wrote {path}")


class Scoring(Writers):
    """Images with classes, each of which has a text: the likeliest one wins."""

    def __init__(self, config: EvaluateConfig, open_torchvision: Opener | None = None):
        self.prompts = read_prompts(config.prompts or "class_name_only")
        if len(self.prompts) > 1:
            raise UserError(
                f"--prompts {config.prompts} has {len(self.prompts)} prompts and scoring takes one; name a file with one."
            )
        super().__init__(config, open_torchvision)

    def matched(self, dataset: Dataset) -> dict[str, Split]:
        """The splits as they are; their classes' names become texts. Raises UserError for images without classes."""
        self.name_classes(dataset)
        return dataset.splits

    def judge_of(self, name: str, split: Split) -> ScoringEvaluator:
        """Top-1 and top-5."""
        return ScoringEvaluator(
            name, self.image_batches(split, *choices(self.tokenizer, self.texts, prompt_of(self))), split.labels
        )

    def seen(self, split: Split) -> str:
        """Images with a class."""
        return f"{split.num_labelled:,} images"


def choices(tokenizer: Tokenizer, written: Sequence[str], prompt: str = "") -> tuple[Column, Column]:
    """`texts` int32 [T, L], the same for every image, and `texts_counted` bool [T, L]: all but padding and the prompt."""
    first = tokens_of(tokenizer, prompt)
    tokens = np.stack([joined(tokenizer, prompt, text, lambda _: first) for text in written])
    counts = (tokens != tokenizer.text.padding) & (first == 0)
    return (
        Column("texts", tokens.shape, np.int32, lambda example: tokens),
        Column("texts_counted", counts.shape, bool, lambda example: counts),
    )


def kept(judge: CaptionEvaluator) -> dict[str, np.ndarray]:
    """texts, tokens int32 [N, L] and log_likelihoods [N] of what was written."""
    tokens, scores = (judge.column("captions", name) for name in ("tokens", "score"))
    return {"texts": np.array(judge.texts), "tokens": tokens, "log_likelihoods": scores}


class Captioner(Prediction):
    """`predict` of a model that writes: a text for each image file."""

    computes_scores = False

    def __init__(self, config: PredictConfig):
        super().__init__(config)
        self.task, self.tokenizer = how(config), tokenizer_of(self)
        tokens_of(self.tokenizer, prompt_of(self))  # to be refused where there is no room for a text

    def check_file(self, path: Path) -> None:
        """Raise UserError for weights that write codes, and no texts."""
        check_writes_texts(path)

    def check_model(self) -> None:
        """Raise UserError for a model that does not write."""
        check_writes(self)

    def names(self) -> Sequence[str]:
        """Nothing. Raises UserError for --texts and --top."""
        if self.config.top != PredictConfig.top:
            raise UserError(
                f"--top is for classes and texts that are given, and {self.config.model} writes one; leave it out."
            )
        if self.config.texts:
            raise UserError(
                f"--texts are compared with images and {shortened(self.config.model)} writes its own; leave them out."
            )
        return ()

    def evaluator(self) -> Evaluator:
        """What keeps the texts."""
        batches = self.image_batches(self.split, *asked(self, self.tokenizer))
        self.judge = CaptionEvaluator("images", batches, read(self, self.tokenizer))
        return Prepared(self.judge, self.prepared)

    def outputs(self) -> Iterator[tuple[str, str]]:
        """(file, text) of every image."""
        return zip(self.files, self.judge.texts)

    def show(self, outputs: Iterator[tuple[str, str]]) -> None:
        """Print the text of every image and write --output."""
        for file, text in outputs:
            self.tell(f"{printable(file)}: {printable(text)}")
        if self.config.output:
            write_arrays(Path(self.config.output), kept(self.judge) | {"files": self.files})
