"""Embeddings of images and texts, which an engine computes for an evaluator, and how similar they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.evaluation.evaluator import Rows

TILE = 2**22  # similarities that are in memory at once: 32 MiB, and as much again for what is asked of them


class Embeddings:
    """What evaluators of two towers share: texts through one tower, then images through the other."""

    def __init__(self, name: str, images: Any, texts: Any):
        self.name, self.batches = name, {"text_embeddings": texts, "image_embeddings": images}
        self.rows: dict[str, list[Rows]] = {output: [] for output in self.batches}

    def passes(self) -> Iterator[tuple[str, Any]]:
        """Two: the texts, then the images."""
        yield from self.batches.items()

    def add(self, output: str, rows: Rows) -> None:
        """Columns `embedding` [N, E] of length 1 and `mask` [N]; of images also `scale` and `bias` [N], which make logits of similarities."""
        mask = rows["mask"]
        self.rows[output].append({name: values[mask] for name, values in rows.items() if name != "mask"})

    def result(self) -> dict[str, float]:
        """No metric of its own: the embeddings are what is wanted."""
        return {}

    def write(self, folder: Path) -> None:
        """Nothing."""

    def column(self, output: str, name: str = "embedding") -> np.ndarray:
        """All rows that were added, without padding."""
        return np.concatenate([rows[name] for rows in self.rows[output]])


def similarities(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """float32 [N, M] of [N, E] and [M, E]: computed in float64 and rounded, so equal embeddings are equally similar.

    A library adds up differently from one place of a matrix to the next.
    """
    images, texts = (rows.astype(np.float64, copy=False) for rows in (images, texts))
    return (images @ texts.T).astype(np.float32)


def pieces(count: int, size: int) -> Iterator[slice]:
    """range(count) in pieces of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
