"""Losses of image-text models over the pairs of all devices, in PyTorch: SIMILARITIES has one function for each.

Each takes this process's share of the embeddings, zimg and ztxt [B, E] of length 1, of which equal rows are a pair; t [1],
the logarithm of what products are multiplied by, and b [1], what is added. Averaged over the processes, loss and
gradients are those of all pairs, however they are shared. With `chunk`, so many columns of logits are computed at a time
and again for the gradients: a process never holds more than its rows times a chunk. Source:
`trainers/proj/image_text/siglip.py` and `_deprecated_contrastive.py` of google-research/big_vision.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bit_pytorch.devices import Devices


def sigmoid(zimg: Tensor, ztxt: Tensor, t: Tensor, b: Tensor, devices: Devices, chunk: int = 0) -> Tensor:
    """The mean over images of the sum over all texts of -log sigmoid(s * logit), s = 1 in a pair and else -1.

    That is softplus(logit), less the logit itself in a pair. SigLIP, https://arxiv.org/abs/2303.15343.
    """
    pairs = t.exp() * (zimg * ztxt).sum(1) + b  # [B]
    (losses,) = by_chunks(sum_of_softplus, zimg, devices.all_rows(ztxt), t, b, chunk)
    return (losses.sum(0) - pairs).mean()


def softmax(zimg: Tensor, ztxt: Tensor, t: Tensor, b: Tensor | None, devices: Devices, chunk: int = 0) -> Tensor:
    """The mean of two cross-entropies: of each image's own text among all texts, of each text's own image among all.

    `b` would change nothing and takes no part. CLIP, https://arxiv.org/abs/2103.00020.
    """
    pairs, none = t.exp() * (zimg * ztxt).sum(1), torch.zeros_like(t)
    of_images, of_texts = by_chunks(logsumexps, zimg, devices.all_rows(ztxt), t, none, chunk)
    among_texts, among_images = of_images.logsumexp(0), devices.all_rows(of_texts.reshape(1, -1)).logsumexp(0)
    return (among_texts.mean() + among_images.mean()) / 2 - pairs.mean()


SIMILARITIES = {"sigmoid": sigmoid, "softmax": softmax}


def sum_of_softplus(logits: Tensor) -> tuple[Tensor]:
    """[B] of [B, C]."""
    return (-F.logsigmoid(-logits).sum(1),)  # F.softplus is off by 2e-9 above 20, where it returns the logit


def logsumexps(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[B], [C] of [B, C]."""
    return logits.logsumexp(1), logits.logsumexp(0)


def softplus_slopes(logits: Tensor, slopes: Tensor) -> Tensor:
    """[B, C]: the gradient for logits [B, C] of `sum_of_softplus`, of what its own is [B]."""
    return logits.sigmoid() * slopes[:, None]


def logsumexps_slopes(logits: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """[B, C]: the gradient for logits [B, C] of `logsumexps`, of what theirs are [B], [C]."""
    return logits.softmax(1) * of_rows[:, None] + logits.softmax(0) * of_columns


SLOPES = {sum_of_softplus: softplus_slopes, logsumexps: logsumexps_slopes}


def by_chunks(
    reduce: Callable[[Tensor], tuple[Tensor, ...]], rows: Tensor, columns: Tensor, t: Tensor, b: Tensor, chunk: int
) -> tuple[Tensor, ...]:
    """What `reduce` makes of the logits of rows [B, E] and each `chunk` of columns [C, E]: [C / chunk, ...]; of all at 0."""
    if not chunk:
        return tuple(found[None] for found in reduce(rows @ (t.exp() * columns).T + b))
    return Chunks.apply(reduce, rows, columns, t, b, chunk)


class Chunks(torch.autograd.Function):
    """`by_chunks`, of which only one chunk's logits live at a time, in the backward pass as well."""

    @staticmethod
    def forward(
        context: Any, reduce: Callable, rows: Tensor, columns: Tensor, t: Tensor, b: Tensor, chunk: int
    ) -> tuple[Tensor, ...]:
        context.save_for_backward(rows, columns, t, b)
        context.reduce, context.chunk = reduce, chunk
        found = [reduce(rows @ (t.exp() * part).T + b) for part in columns.split(chunk)]
        return tuple(map(torch.stack, zip(*found)))

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, t, b = context.saved_tensors
        to_rows, to_columns = torch.zeros_like(rows), torch.empty_like(columns)
        to_t, to_b = torch.zeros_like(t), torch.zeros_like(b)
        for part, to_part, *own in zip(columns.split(context.chunk), to_columns.split(context.chunk), *slopes):
            part = t.exp() * part
            to_logits = SLOPES[context.reduce](rows @ part.T + b, *own)
            to_rows.addmm_(to_logits, part)
            torch.mm(to_logits.T, rows, out=to_part)
            to_t += (to_part * part).sum()
            to_part *= t.exp()
            to_b += to_logits.sum()
        return None, to_rows, to_columns, to_t, to_b, None
