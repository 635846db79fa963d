"""Batches of texts for evaluation: every text once, in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.batches import EvalBatches
from common.data.columns import Column
from common.data.split import Example, Split


def text_batches(texts: Sequence[str], tokenizer: Any, batch: int) -> EvalBatches:
    """Batches of `tokens` int32 [B, L] or, of a model that sees texts drawn, `texts` uint8 [B, S, S, 3].

    The threads make them with the tokenizer of the model's card (common/data/text/). The last batch is padded, and `mask` is
    False on its padding.
    """
    side = tokenizer.length
    name, shape, dtype = (
        ("texts", (side, side, 3), np.uint8) if tokenizer.kind == "unifont" else ("tokens", (side,), np.int32)
    )

    def make(example: Example) -> np.ndarray:
        return tokenizer.encode([texts[example.number]])[0]

    split = Split(refuse, np.zeros(len(texts), np.int32), lambda i: repr(texts[i]))
    return EvalBatches(split, None, batch, columns=(Column(name, shape, dtype, make),))


def refuse(example: int) -> bytes:
    """There are no images among texts."""
    raise LookupError(f"text {example} has no image")
