"""What an evaluation adds up over batches, and what comes of it."""

from collections.abc import Sequence

from common.errors import UserError


def averages(sums: Sequence[float]) -> dict[str, float]:
    """{top1, top5, loss} of [correct among 1, correct among 5, sum of losses, count], as an engine's `score` gives it.

    Raises UserError where nothing was counted: images without labels are not.
    """
    top1, top5, loss, count = map(float, sums)
    if not count:
        raise UserError("None of the images to evaluate has a label; give some of them labels or choose another split.")
    return {"top1": top1 / count, "top5": top5 / count, "loss": loss / count}
