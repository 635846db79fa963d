"""What pairs of images and texts cost, in minibatches: training's loss on held-out pairs.

It is comparable between runs that have the same loss and size of minibatches. Source: `utils.bidirectional_contrastive_loss`,
`trainers/proj/image_text/siglip.py` and `evaluators/proj/image_text/contrastive.py` of google-research/big_vision.
"""

from collections.abc import Callable

import numpy as np

from common.evaluation.embeddings import pieces


def softmax_losses(logits: np.ndarray) -> np.ndarray:
    """[B]: of each pair the mean of two cross-entropies, of its text among the texts and of its image among the images."""
    own = np.diag(logits)
    return (log_sum_exp(logits, 1) + log_sum_exp(logits, 0)) / 2 - own


def sigmoid_losses(logits: np.ndarray) -> np.ndarray:
    """[B]: of each image the SUM over the texts of the binary cross-entropies."""
    signs = 2 * np.eye(len(logits)) - 1
    return np.logaddexp(0, -signs * logits).sum(1)


def log_sum_exp(logits: np.ndarray, axis: int) -> np.ndarray:
    """log(sum(exp(logits))) along an axis."""
    most = logits.max(axis)
    return most + np.log(np.exp(logits - np.expand_dims(most, axis)).sum(axis))


CONTRASTIVE_LOSSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax_losses, "sigmoid": sigmoid_losses,
}  # fmt: skip


def pair_losses(
    images: np.ndarray, texts: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, loss: str, batch: int
) -> np.ndarray:
    """float64 [N] losses of pairs [N, E] in minibatches of `batch`, in order; their logits are scale * similarity + bias."""
    found = []
    for rows in pieces(len(images), batch):
        similar = images[rows].astype(np.float64) @ texts[rows].astype(np.float64).T
        found.append(CONTRASTIVE_LOSSES[loss](scale[rows, None] * similar + bias[rows, None]))
    return np.concatenate(found)
