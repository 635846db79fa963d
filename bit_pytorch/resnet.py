"""ResNetV2-BiT in PyTorch (Big Transfer, https://arxiv.org/abs/1912.11370). B batch, C channels, H height, W width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_pytorch.layers import GroupNorm, StdConv, max_pool
from common.models import ResNetConfig


class Bottleneck(nn.Module):
    """Pre-activation bottleneck block: norm, ReLU, convolution, three times; the 3x3 strides."""

    def __init__(self, in_width: int, out_width: int, stride: int, config: ResNetConfig):
        super().__init__()
        middle = out_width // 4
        norm = {"num_groups": config.num_groups, "epsilon": config.group_norm_epsilon}
        conv = {"epsilon": config.standardization_epsilon}
        self.norm1 = GroupNorm(in_width, **norm)
        self.proj = StdConv(in_width, out_width, 1, stride=stride, **conv) if in_width != out_width else None
        self.conv1 = StdConv(in_width, middle, 1, **conv)
        self.norm2 = GroupNorm(middle, **norm)
        self.conv2 = StdConv(middle, middle, 3, stride=stride, **conv)
        self.norm3 = GroupNorm(middle, **norm)
        self.conv3 = StdConv(middle, out_width, 1, **conv)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        shortcut = self.proj(out) if self.proj else x  # the projection sees the activated input
        out = self.conv1(out)
        out = self.conv2(F.relu(self.norm2(out)))
        out = self.conv3(F.relu(self.norm3(out)))
        return out + shortcut


class ResNet(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to logits [B, num_classes]."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.config = config
        self.stem = StdConv(3, config.stem_width, 7, stride=2, epsilon=config.standardization_epsilon)
        self.blocks = nn.ModuleList(Bottleneck(*block, config) for block in config.blocks)
        self.norm = GroupNorm(config.width, num_groups=config.num_groups, epsilon=config.group_norm_epsilon)
        self.head = nn.Linear(config.width, config.num_classes)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters; activations flow in the type of the images."""
        return self.head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.head.weight.device

    def features(self, images: Tensor) -> Tensor:
        """Pooled features [B, width], in the type of the parameters."""
        x = max_pool(self.stem(images))  # [B, C, H / 4, W / 4]
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.norm(x))  # [B, C, H / 32, W / 32]
        return torch.mean(x.to(self.dtype), dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
