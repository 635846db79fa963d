"""What an evaluation adds up over batches, and what comes of it."""

from collections.abc import Callable, Sequence

import numpy as np

from common.system.errors import UserError

Keep = Callable[[np.ndarray, np.ndarray], None]  # is told the likeliest class [N] and its probability [N]


def summarize(scores: np.ndarray, keep: Keep | None = None) -> dict[str, float]:
    """{top1, top5, loss} of every example's row of an engine's `score`, [N, 6]; `keep` is told the rest of it."""
    if keep:
        keep(scores[:, 4].astype(np.int32), scores[:, 5].astype(np.float32))
    return averages(add_up(scores))


def add_up(scores: np.ndarray) -> np.ndarray:
    """[correct among 1, correct among 5, sum of losses, count], float64, of rows of `score`, [N, 6]."""
    return scores[:, :4].sum(0, dtype=np.float64)


def averages(sums: Sequence[float]) -> dict[str, float]:
    """{top1, top5, loss} of [correct among 1, correct among 5, sum of losses, count].

    Raises UserError where nothing was counted: images without labels are not.
    """
    top1, top5, loss, count = map(float, sums)
    if not count:
        raise UserError("None of the images to evaluate has a label; give some of them labels or choose another split.")
    return {"top1": top1 / count, "top5": top5 / count, "loss": loss / count}


def accuracies(result: dict[str, float], num_classes: int, published: str = "") -> str:
    """`top-1 49.00%, top-5 93.00%` for a person, with what was `published` beside the first.

    The top-5 of five classes or fewer is 100 %, which tells nothing: it is left out.
    """
    top5 = f", top-5 {result['top5']:.2%}" if num_classes > 5 else ""
    return f"top-1 {result['top1']:.2%}{published}{top5}"
