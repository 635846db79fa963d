"""What an evaluator asks of a batch, in PyTorch: each of OUTPUTS is {column: rows [B, ...]}, in the order of the batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from bit_pytorch.losses import cross_entropy, scale
from bit_pytorch.model import Model
from common.recipes.task import Loss, Task

PROBABILITIES = {"softmax": lambda logits: logits.softmax(1), "sigmoid": torch.sigmoid}  # of each class


def score(logits: Tensor, batch: dict[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    """Columns [B]: top1 and top5, whether the right class is among so many; loss; mask; predicted, the likeliest class; its probability.

    With labels [B, K] an image is right where the prediction is one of its labels, and one without labels is left out.
    """
    labels, mask = batch["labels"], batch["mask"]
    losses = cross_entropy(logits, labels, loss)
    if labels.ndim == 2:
        mask = mask & (labels > 0).any(1)
        labels = torch.where(labels > 0, logits, -torch.inf).argmax(1)  # the likeliest of an image's own
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    # How many classes rank before the right one: all but itself, lower ones, and later equals. NaN is not lower.
    behind = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    rank = logits.shape[1] - behind.sum(1)
    probabilities = PROBABILITIES[loss](logits)
    columns = {"top1": rank < 1, "top5": rank < 5, "loss": losses.double(), "mask": mask}
    return columns | {"predicted": logits.argmax(1), "probability": probabilities.amax(1).double()}


def scores(models: dict[str, Model], batch: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The `score` of what the trained model makes of a batch."""
    model = models["model"]
    return score(model(scale(batch["images"], model).to(model.compute_dtype)), batch, task.loss)


OUTPUTS: dict[str, Callable[[dict[str, Model], dict[str, Tensor], Task], dict[str, Tensor]]] = {"scores": scores}
