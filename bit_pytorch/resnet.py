"""ResNetV2-BiT in PyTorch (Big Transfer, https://arxiv.org/abs/1912.11370). B batch, C channels, H height, W width."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_pytorch.layers import Dense, GroupNorm, StdConv, max_pool
from bit_pytorch.model import Model
from common.models import ResNetConfig
from common.models.intermediates import Intermediate, chosen, stage_ends, stage_labels

torch.fx.wrap("max_pool")  # which decides by values: a node of torch.fx's graphs


class Bottleneck(nn.Module):
    """Pre-activation bottleneck block: norm, ReLU, convolution, three times; the 3x3 strides."""

    def __init__(self, in_width: int, out_width: int, stride: int, config: ResNetConfig):
        super().__init__()
        middle = out_width // 4
        norm = functools.partial(GroupNorm, config.num_groups, eps=config.group_norm_epsilon)
        conv = functools.partial(StdConv, bias=False, epsilon=config.standardization_epsilon)
        self.norm1 = norm(in_width)
        self.proj = conv(in_width, out_width, 1, stride=stride) if in_width != out_width else None
        self.conv1 = conv(in_width, middle, 1)
        self.norm2 = norm(middle)
        self.conv2 = conv(middle, middle, 3, stride=stride, padding=1)
        self.norm3 = norm(middle)
        self.conv3 = conv(middle, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        shortcut = self.proj(out) if self.proj else x  # the projection sees the activated input
        out = self.conv1(out)
        out = self.conv2(F.relu(self.norm2(out)))
        out = self.conv3(F.relu(self.norm3(out)))
        return out + shortcut


class ResNet(Model):
    """Images [B, 3, H, W] in [-1, 1] to logits [B, num_classes]."""

    def __init__(self, config: ResNetConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        standardization = {"epsilon": config.standardization_epsilon}
        self.stem = StdConv(3, config.stem_width, 7, stride=2, padding=3, bias=False, **standardization)
        self.blocks = nn.ModuleList(Bottleneck(*block, config) for block in config.blocks)
        self.norm = GroupNorm(config.num_groups, config.width, config.group_norm_epsilon)
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None

    def features(self, images: Tensor) -> Tensor:
        """Pooled features [B, width], in the type of the parameters."""
        x = max_pool(self.stem(images), self.config.max_pool_padding)  # [B, C, H / 4, W / 4]
        for block in self.blocks:
            x = self._run(block, x)
        x = F.relu(self.norm(x))  # [B, C, H / 32, W / 32]
        return x.to(self.dtype).mean((2, 3))

    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the first convolution and of every stage, which `indices` choose (common/models/intermediates.py).

        With `norm`, the last one is what is pooled: behind norm and ReLU.
        """
        found, ends = [self.stem(images)], stage_ends(self.config.num_units)
        x = max_pool(found[0], self.config.max_pool_padding)
        for i, block in enumerate(self.blocks, start=1):
            x = self._run(block, x)
            found += [x] * (i in ends)
        found[-1] = F.relu(self.norm(x)) if norm else x
        labels = stage_labels(len(ends))
        return [Intermediate(*labels[i], found[i]) for i in chosen(len(found), indices)]
