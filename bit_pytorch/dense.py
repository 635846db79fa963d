"""What a model of maps reads and predicts, in PyTorch. B maps of H x W pixels, L patches of P pixels, b bins.

A map that is read is {name: values [B, L, b, P] in [-1, 1], or classes int [B, L, P]}, one that is predicted {name: [B, L, b, P]}.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.models import VqVaeConfig
from common.models.discrete import FARTHEST, MAPS, NEAREST, depth_edges


def read(maps: Tensor, config: VqVaeConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Maps of a batch [B, H, W, n] as a model reads them."""
    found = READ[config.target](maps, config, dtype)
    if MAPS[config.target].kind == "values":
        return {config.names[0]: patches(found, config)}
    return {name: patches(found[..., i : i + 1], config)[:, :, 0] for i, name in enumerate(config.names)}


def scaled(maps: Tensor, config: VqVaeConfig, dtype: torch.dtype) -> Tensor:
    """Colours uint8 in [-1, 1]."""
    return maps.to(dtype) / 127.5 - 1


def depth_classes(maps: Tensor, config: VqVaeConfig, dtype: torch.dtype) -> Tensor:
    """Metres as classes of equal width; what is nearer or farther than all, and not measured, as the first or the last."""
    edges = torch.from_numpy(depth_edges(*config.bins)).to(maps.device, maps.dtype)
    return torch.bucketize(maps.contiguous(), edges, right=True)


READ = {"colorization": scaled, "depth": depth_classes, "panoptic": lambda maps, config, dtype: maps}


def patches(x: Tensor, config: VqVaeConfig) -> Tensor:
    """[B, H, W, n] -> [B, L, n, P]."""
    (rows, columns), (height, width) = config.grid, config.patch_size
    x = x.reshape(-1, rows, height, columns, width, x.shape[3]).permute(0, 1, 3, 5, 2, 4)
    return x.flatten(4).flatten(1, 2)


def pixels(x: Tensor, config: VqVaeConfig) -> Tensor:
    """The inverse of `patches`."""
    (rows, columns), (height, width) = config.grid, config.patch_size
    x = x.reshape(-1, rows, columns, x.shape[2], height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(-1, rows * height, columns * width, x.shape[5])


def shown(found: dict[str, Tensor], config: VqVaeConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the encoder is shown of maps that were read: {name: [B, L, b * P]}, classes as ones among zeros."""
    if MAPS[config.target].kind == "values":
        return {name: flat(values).to(dtype) for name, values in found.items()}
    return {name: flat(one_hot(found[name], bins, dtype)) for name, bins in zip(config.names, config.bins)}


def flat(x: Tensor) -> Tensor:
    """[B, L, b, P] -> [B, L, b * P]."""
    return x.flatten(2)


def one_hot(classes: Tensor, bins: int, dtype: torch.dtype) -> Tensor:
    """[B, L, P] -> [B, L, b, P]; of what is no class, zeros."""
    return (classes[:, :, None] == torch.arange(bins, device=classes.device)[:, None]).to(dtype)


def map_error(logits: dict[str, Tensor], found: dict[str, Tensor], config: VqVaeConfig) -> Tensor:
    """The mean over pixels of the error of predicted maps, summed over names: squared, or the cross-entropy.

    What is no class, or one below the first that counts, has none, and counts in the mean.
    """
    kind, first = MAPS[config.target].kind, MAPS[config.target].first
    errors = {"values": squared_error, "classes": cross_entropy}[kind]
    return sum(errors(logits[name], found[name], first).mean() for name in config.names)


def squared_error(predicted: Tensor, values: Tensor, first: int) -> Tensor:
    """[B, L, b, P]."""
    return (predicted - values).square()


def cross_entropy(logits: Tensor, classes: Tensor, first: int) -> Tensor:
    """[B, L, P] of logits [B, L, b, P]."""
    counted = (classes >= first) & (classes < logits.shape[2])
    right = torch.where(counted, classes, 0).long()[:, :, None]
    return -logits.log_softmax(2).gather(2, right)[:, :, 0] * counted.to(logits.dtype)


def predicted(logits: dict[str, Tensor], config: VqVaeConfig) -> Tensor:
    """The maps [B, H, W, n] for an evaluator: colours in [-1, 1], metres, or categories and instances int."""
    return PREDICTED[config.target](*(pixels(logits[name], config) for name in config.names))


def colors(x: Tensor) -> Tensor:
    """[B, H, W, 3]."""
    return x.clamp(-1, 1)


def depth(x: Tensor) -> Tensor:
    """[B, H, W, 1]: the middle of the likeliest class of [B, H, W, b]."""
    return (x.argmax(3, keepdim=True).to(x.dtype) + 0.5) / x.shape[3] * (FARTHEST - NEAREST) + NEAREST


def segments(semantics: Tensor, instances: Tensor) -> Tensor:
    """[B, H, W, 2]: a pixel's likeliest instance, all of whose pixels have the category that is likeliest for their sum."""
    number = instances.argmax(3)
    members = F.one_hot(number, instances.shape[3]).to(semantics.dtype)
    category = torch.einsum("bhwk,bhwn->bnk", semantics, members).argmax(2)
    return torch.stack([category.gather(1, number.flatten(1)).view_as(number), number], 3).int()


PREDICTED: dict[str, Callable[..., Tensor]] = {"colorization": colors, "depth": depth, "panoptic": segments}
