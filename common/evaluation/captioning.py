"""How well a model writes: how likely it finds texts of images, and how like people's are the texts that it writes."""

import dataclasses
import importlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.data.captions import Captions
from common.data.split import MultiLabels, evenly
from common.evaluation.evaluator import Kept, Means
from common.evaluation.zero_shot import place_of_own, tops
from common.system.errors import UserError
from common.system.files import write_json
from common.weights.containers import read_json

WRITTEN, FILE = "captions", "captions.json"  # the name of the evaluator, and of its file
MOST = 1000  # texts that are kept in the file
WORD = re.compile(r"\w+(?:['’-]\w+)*")  # what is compared; punctuation is not, as in COCO's evaluation


class LikelihoodEvaluator(Means):
    """{loss: the mean over texts of a token's cross-entropy, nll: of a text's sum, perplexity: exp of a token's mean} of pairs.

    Source: `evaluators/proj/cappa/perplexity.py` of google-research/big_vision, whose "perplexity" is our nll, or with
    `normalize_by_seqlen` our loss.
    """

    def __init__(self, name: str, batches: Any):
        super().__init__(name, "likelihoods", batches, ("loss", "nll", "num_tokens"))

    def result(self) -> dict[str, float]:
        """The means; the perplexity is of all tokens alike."""
        found = super().result()
        nll = found["nll"] / found.pop("num_tokens")
        return found | {"perplexity": math.exp(nll) if nll < 700 else math.inf}


class ScoringEvaluator(Kept):
    """{top1, of six classes and more top5}: an image belongs to the class whose text is the likeliest of it.

    `labels` are those of all images, int32 [N] or MultiLabels. Likelihoods are not divided by a text's length. Source:
    `evaluators/proj/cappa/scoring_classifier.py` of google-research/big_vision.
    """

    def __init__(self, name: str, batches: Any, labels: np.ndarray | MultiLabels):
        super().__init__(name, {"text_scores": batches})
        self.labels = labels

    @property
    def scores(self) -> np.ndarray:
        """[N, K]: the log-likelihood of each class's text, of all rows that were added."""
        return self.column("text_scores", "scores")

    def result(self) -> dict[str, float]:
        """The means over images that have a class. Raises UserError where none has."""
        scores = self.scores
        return tops(place_of_own(scores, self.labels), scores.shape[1])


@dataclasses.dataclass(frozen=True)
class Caption:
    """What a model wrote of an image, and what people did."""

    image: int  # its number in the split
    text: str
    references: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Written:
    """What a model wrote of images of a split."""

    split: str
    num_images: int  # of the whole split
    captions: tuple[Caption, ...]


def read_written(path: Path) -> Written:
    """`captions.json`. UserError for any other file."""
    try:
        record = read_json(path)
        found = Written(**record | {"captions": tuple(Caption(**row) for row in record["captions"])})
        for one in found.captions:
            if not 0 <= one.image < found.num_images or not all(
                isinstance(text, str) for text in (one.text, *one.references)
            ):
                raise ValueError(f"{one} of {found.num_images} images")
        if len(found.captions) > MOST or not isinstance(found.split, str):
            raise ValueError(f"{len(found.captions)} captions of {found.split}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} holds no captions ({error}); remove it, or repeat the run's end.") from error
    return found


class CaptionEvaluator(Kept):
    """{cider: CIDEr-D (https://arxiv.org/abs/1411.5726), ten times the mean of its similarities; bleu4: BLEU-4, a fraction}.

    Columns `tokens` [N, L], which `decode` makes texts of, and `score` [N]. Both metrics are computed by the package
    pycocoevalcap over words in lower case without punctuation. Words are weighed by how many of these images' references
    have them, so that values of different images do not compare; of a single image CIDEr-D is 0. Without `references` there
    are texts only. `numbers` are those of the images in their split, or count from 0. Raises UserError where the package is missing.
    """

    def __init__(
        self, name: str, batches: Any, decode: Callable[[np.ndarray], list[str]], references: Captions | None = None, *,
        split: tuple[str, int] | None = None, numbers: np.ndarray | None = None,
    ):  # fmt: skip
        super().__init__(name, {WRITTEN: batches})
        self.decode, self.references, self.split, self.numbers = decode, references, split, numbers
        if references is not None:
            scorers()

    @property
    def texts(self) -> list[str]:
        """Of every image."""
        return self.decode(self.column(WRITTEN, "tokens"))

    @property
    def captions(self) -> list[Caption]:
        """Of every image, with what people wrote."""
        texts = self.texts
        numbers = range(len(texts)) if self.numbers is None else self.numbers.tolist()
        return [*map(Caption, numbers, texts, map(tuple, self.references or [()] * len(texts)))]

    def result(self) -> dict[str, float]:
        """The two metrics; nothing without references."""
        if self.references is None:
            return {}
        captions = self.captions
        written = {one.image: [in_words(one.text)] for one in captions}
        wanted = {one.image: [*map(in_words, one.references)] for one in captions}
        cider, bleu = scorers()
        return {
            "cider": float(cider.compute_score(wanted, written)[0]),
            "bleu4": float(bleu.compute_score(wanted, written, verbose=0)[0][3]),
        }

    def write(self, folder: Path) -> None:
        """`captions.json`: at most MOST of them, where the name of the split and its number of images are known."""
        if self.split:
            captions = self.captions
            kept = tuple(captions[i] for i in evenly(len(captions), MOST))
            write_json(folder / FILE, dataclasses.asdict(Written(*self.split, kept)))


def in_words(text: str) -> str:
    """A text as it is compared."""
    return " ".join(WORD.findall(text.lower()))


def scorers() -> tuple[Any, Any]:
    """CIDEr-D and BLEU. Raises UserError where the package is missing."""
    try:
        found = (importlib.import_module(f"pycocoevalcap.{name}") for name in ("cider.cider", "bleu.bleu"))
        cider, bleu = found
    except ImportError as error:
        raise UserError(
            "pycocoevalcap is not installed, which computes CIDEr and BLEU; `pip install '.[captions]'`."
        ) from error
    return cider.Cider(), bleu.Bleu(4)
