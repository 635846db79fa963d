"""The layers in which frameworks differ: weight-standardised convolution, group norm and the stem's max-pool.

Activations flow in the type of the images; parameters, norms and standardisation keep the type of the parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StdConv(nn.Conv2d):
    """Convolution without bias whose kernel is standardised over H, W and input channels, with symmetric padding.

    Source: Weight Standardization (https://arxiv.org/abs/1903.10520); epsilon is added to the biased variance.
    """

    def __init__(self, in_width: int, out_width: int, kernel_size: int, *, stride: int = 1, epsilon: float):
        super().__init__(in_width, out_width, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        kernel = (self.weight - mean) / torch.sqrt(variance + self.epsilon)
        return F.conv2d(x, kernel.to(x.dtype), None, self.stride, self.padding)


class GroupNorm(nn.GroupNorm):
    """Group norm in the type of its parameters (https://arxiv.org/abs/1803.08494)."""

    def __init__(self, width: int, *, num_groups: int, epsilon: float):
        super().__init__(num_groups, width, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        # PyTorch's channels-last kernel for the CPU is three times less precise: the contiguous one is as fast.
        return super().forward(x.to(self.weight.dtype).contiguous()).to(x.dtype)


def max_pool(x: Tensor) -> Tensor:
    """3x3 maximum with stride 2. The border is padded with zeros, as in the original, not with -infinity."""
    return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
