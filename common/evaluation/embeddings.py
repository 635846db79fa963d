"""Embeddings of images and texts, which an engine computes for an evaluator, and how similar they are."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from common.evaluation.evaluator import Kept

TILE = 2**22  # similarities that are in memory at once: 32 MiB, and as much again for what is asked of them


class Embeddings(Kept):
    """What evaluators of two towers share: texts through one tower, then images through the other.

    Columns: `embedding` [N, E] of length 1; of images also `scale` and `bias` [N], which make logits of similarities.
    """

    def __init__(self, name: str, images: Any, texts: Any):
        super().__init__(name, {"text_embeddings": texts, "image_embeddings": images})

    def column(self, output: str, name: str = "embedding") -> np.ndarray:
        """All rows that were added, without padding."""
        return super().column(output, name)


def similarities(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float32 [N, M] of [N, E] and [M, E]: computed in float64 and rounded, so equal embeddings are equally similar.

    A library adds up differently from one place of a matrix to the next.
    """
    images, texts = (rows.astype(np.float64, copy=False) for rows in (images, texts))
    return (images @ texts.T).astype(np.float32)


def pieces(count: int, size: int) -> Iterator[slice]:
    """range(count) in pieces of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
