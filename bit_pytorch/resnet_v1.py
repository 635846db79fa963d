"""ResNet V1 in PyTorch, as in big_vision's `models/bit.py`, and as the backbone of hybrids. B batch, C channels."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bit_pytorch.layers import Dense, GroupNorm, StdConv, max_pool
from bit_pytorch.model import Model
from common.models import ResNetV1Config
from common.models.intermediates import Intermediate, chosen, stage_ends, stage_labels


def conv(in_width: int, out_width: int, size: int, stride: int, config: ResNetV1Config) -> StdConv:
    """A convolution as every one of the family is."""
    standardization = {"epsilon": config.standardization_epsilon, "standardization": config.standardization}
    return StdConv(in_width, out_width, size, stride, bias=False, same=True, **standardization)


def norm(width: int, config: ResNetV1Config) -> GroupNorm:
    """A norm as every one of the family is."""
    return GroupNorm(config.num_groups, width, config.group_norm_epsilon)


class Stem(nn.Module):
    """Convolution, norm, ReLU and maximum: [B, 3, H, W] to [B, C, H / 4, W / 4]."""

    def __init__(self, config: ResNetV1Config):
        super().__init__()
        self.conv = conv(3, config.stem_width, 7, 2, config)
        self.norm = norm(config.stem_width, config)

    def forward(self, images: Tensor) -> Tensor:
        return max_pool(F.relu(self.norm(self.conv(images))), "same")


class Bottleneck(nn.Module):
    """Post-activation bottleneck block: convolution and norm, three times; the 3x3 strides."""

    def __init__(self, in_width: int, out_width: int, stride: int, config: ResNetV1Config):
        super().__init__()
        middle, projects = out_width // 4, in_width != out_width or stride > 1
        self.proj = conv(in_width, out_width, 1, stride, config) if projects else None
        self.proj_norm = norm(out_width, config) if projects else None
        self.conv1, self.norm1 = conv(in_width, middle, 1, 1, config), norm(middle, config)
        self.conv2, self.norm2 = conv(middle, middle, 3, stride, config), norm(middle, config)
        self.conv3, self.norm3 = conv(middle, out_width, 1, 1, config), norm(out_width, config)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.proj_norm(self.proj(x)) if self.proj else x
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        return F.relu(shortcut + self.norm3(self.conv3(out)))


class Backbone(Model):
    """Images [B, 3, H, W] in [-1, 1] to the last feature map [B, C, H / stride, W / stride]."""

    def __init__(self, config: ResNetV1Config, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(Bottleneck(*block, config) for block in config.blocks)
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None

    def features(self, images: Tensor) -> Tensor:
        """The last feature map, in the type of the images."""
        x = self.stem(images)
        for block in self.blocks:
            x = self._run(block, x)
        return x

    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the first convolution and of every stage, which `indices` choose (common/models/intermediates.py).

        `norm` changes nothing: what is pooled is the last of them.
        """
        found, ends = [F.relu(self.stem.norm(self.stem.conv(images)))], stage_ends(self.config.num_units)
        x = max_pool(found[0], "same")
        for i, block in enumerate(self.blocks, start=1):
            x = self._run(block, x)
            found += [x] * (i in ends)
        labels = stage_labels(len(ends))
        return [Intermediate(*labels[i], found[i]) for i in chosen(len(found), indices)]


class ResNetV1(Backbone):
    """Images [B, 3, H, W] in [-1, 1] to logits [B, num_classes]."""

    def features(self, images: Tensor) -> Tensor:
        """Pooled features [B, width], in the type of the parameters."""
        return super().features(images).to(self.dtype).mean((2, 3))
