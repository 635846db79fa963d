"""Retrieval: is the image of a text among the most similar ones, and is a text of an image?

Source: `evaluators/proj/image_text/image_text_retrieval.py` of google-research/big_vision.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.evaluation.contrastive import pair_losses
from common.evaluation.embeddings import TILE, Embeddings, pieces, similarities
from common.evaluation.pairs import PAIRS, Pair, Pairs, surest, write_pairs

DEPTHS = (1, 5, 10)
SIDE = int(TILE**0.5)  # of a tile of similarities
NOWHERE = 2**62  # the place of what is not there


class RetrievalEvaluator(Embeddings):
    """{img2txt_recall@1, @5, @10, txt2img_recall@1, @5, @10: fractions}, and with a `loss` its mean over minibatches.

    Of an image, in how many cases ANY of its texts is among so many most similar ones, and of a text, in how many cases its
    image is. `images_of` int32 [M] is the image of each text; an image without a text counts and is never right. Of equal
    similarities the one of the lower number comes first, so a model that embeds everything alike is right by chance only.
    `loss`, softmax or sigmoid, is that of every image with its first text, `batch` pairs at a time, in order. With the
    `captions`, one string for each text, it leaves `pairs.json`.
    """

    def __init__(
        self, name: str, images: Any, images_of: np.ndarray, texts: Any, *,
        loss: str | None = None, batch: int = 1, captions: Sequence[str] | None = None,
    ):  # fmt: skip
        super().__init__(name, images, texts)
        self.images_of, self.loss, self.batch, self.captions = images_of, loss, batch, captions

    def result(self) -> dict[str, float]:
        """The recalls."""
        found, images, texts = self.found, self.column("image_embeddings"), self.column("text_embeddings")
        recalls = {
            f"{direction}_recall@{depth}": float((place < depth).mean())
            for direction, place in (("img2txt", found.of_texts), ("txt2img", found.of_images))
            for depth in DEPTHS
        }
        return recalls | ({"loss": self.mean_loss(images, texts)} if self.loss else {})

    def mean_loss(self, images: np.ndarray, texts: np.ndarray) -> float:
        """Over the images that have a text."""
        chosen, first = np.unique(self.images_of, return_index=True)
        scale, bias = (self.column("image_embeddings", name)[chosen] for name in ("scale", "bias"))
        pairs = images[chosen], texts[first]
        return float(pair_losses(*pairs, scale, bias, loss=self.loss, batch=self.batch).mean())

    @functools.cached_property
    def found(self) -> "Places":
        """Of all rows that were added."""
        return places(self.column("image_embeddings"), self.column("text_embeddings"), self.images_of)

    @property
    def pairs(self) -> Pairs:
        """The surest of the texts for which another image is found."""
        found, wrong = self.found, self.found.of_images > 0
        pairs = [
            Pair(self.captions[j], int(self.images_of[j]), int(found.nearest[j]), float(found.similarity[j]),
                 float(found.own_similarity[j]), int(found.of_images[j]))
            for j in surest(found.similarity, wrong & np.isfinite(found.own_similarity))
        ]  # fmt: skip
        return Pairs(self.name, len(found.of_texts), len(wrong), int(wrong.sum()), tuple(pairs))

    def write(self, folder: Path) -> None:
        """`pairs.json`, where there are captions."""
        if self.captions is not None:
            write_pairs(folder / PAIRS, self.pairs)


class Places(NamedTuple):
    """How many others are more similar than what belongs together, and what is."""

    of_texts: np.ndarray  # int64 [N], for each image: than the most similar text of its own
    of_images: np.ndarray  # int64 [M], for each text: than its own image
    nearest: np.ndarray  # int64 [M], for each text: the most similar image
    similarity: np.ndarray  # float32 [M], of it
    own_similarity: np.ndarray  # float32 [M], of its own image


def places(images: np.ndarray, texts: np.ndarray, images_of: np.ndarray) -> Places:
    """Of embeddings [N, E] and [M, E]; memory holds the embeddings and, of their similarities, one tile.

    NaN is not lower than a similarity and has no place, so a model that has blown up finds nothing.
    """
    own = own_similarities(images, texts, images_of)
    best, first = best_texts(own, images_of, len(images))
    of_texts, of_images = np.full(len(images), len(texts)), np.full(len(texts), len(images))
    nearest, similarity = np.zeros(len(texts), int), np.full(len(texts), -np.inf, np.float32)
    for columns in pieces(len(texts), SIDE):
        numbers, image, right = np.arange(columns.start, columns.stop), images_of[columns], own[columns]
        for rows in pieces(len(images), SIDE):
            tile = similarities(images[rows], texts[columns])
            mine = np.flatnonzero((image >= rows.start) & (image < rows.stop))
            tile[image[mine] - rows.start, mine] = right[mine]  # the very same number as above, however it was added up
            row = np.arange(rows.start, rows.stop)[:, None]
            of_texts[rows] -= behind(tile, best[rows, None], numbers >= first[rows, None]).sum(1)
            of_images[columns] -= behind(tile, right, row >= image).sum(0)
            top, most = tile.argmax(0) + rows.start, tile.max(0)
            nearest[columns] = np.where(most > similarity[columns], top, nearest[columns])
            similarity[columns] = np.maximum(most, similarity[columns])
    of_texts[(first == NOWHERE) | np.isnan(best)], of_images[np.isnan(own)] = NOWHERE, NOWHERE
    return Places(of_texts, of_images, nearest, similarity, own)


def behind(found: np.ndarray, own: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Where a similarity does not come before `own`: it is lower, or equal and not of an earlier number."""
    return (found < own) | ((found == own) & later)


def own_similarities(images: np.ndarray, texts: np.ndarray, images_of: np.ndarray) -> np.ndarray:
    """float32 [M]: of each text and its image."""
    found = np.empty(len(texts), np.float32)
    for rows in pieces(len(texts), SIDE):
        pairs = images[images_of[rows]].astype(np.float64), texts[rows].astype(np.float64)
        found[rows] = np.einsum("me,me->m", *pairs)
    return found


def best_texts(own: np.ndarray, images_of: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarity [N] of the most similar text of each image, its number [N]): the first of equals; NOWHERE without any."""
    order = np.lexsort((-own, images_of))  # stable: by image, the most similar first, the lowest number first
    leaders = order[np.flatnonzero(np.diff(images_of[order], prepend=-1))]
    best, first = np.full(num_images, -np.inf, np.float32), np.full(num_images, NOWHERE)
    best[images_of[leaders]], first[images_of[leaders]] = own[leaders], leaders
    return best, first
