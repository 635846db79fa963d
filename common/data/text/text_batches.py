"""Batches of texts for evaluation: every text once, in order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.data.batches import EvalBatches
from common.data.columns import Column
from common.data.split import Split

Encode = Callable[[Sequence[str]], np.ndarray]  # texts -> tokens int32 [N, L], or drawings uint8 [N, S, S, 3]


def text_batches(
    texts: Sequence[str],
    encode: Encode,
    batch: int,
    *,
    shape: tuple[int, ...],
    name: str = "tokens",
    dtype: type = np.int32,
) -> EvalBatches:
    """Batches of the column `name`, whose row `encode([text])[0]` of `shape` the threads make; the last one is padded.

    `mask` is False on the padding.
    """
    split = Split(refuse, np.zeros(len(texts), np.int32), lambda i: repr(texts[i]))
    column = Column(name, shape, dtype, lambda example: encode([texts[example.number]])[0])
    return EvalBatches(split, None, batch, columns=(column,))


def form_of(tokenizer: Any) -> dict[str, Any]:
    """The name, shape and dtype of a column of a tokenizer's texts: `tokens` int32 [L], or `texts` uint8 [S, S, 3] that are drawn."""
    side = tokenizer.length
    if tokenizer.kind == "unifont":
        return {"name": "texts", "shape": (side, side, 3), "dtype": np.uint8}
    return {"name": "tokens", "shape": (side,), "dtype": np.int32}


def refuse(example: int) -> bytes:
    """There are no images among texts."""
    raise LookupError(f"text {example} has no image")
