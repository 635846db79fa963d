"""ResNetV2-BiT in JAX (Big Transfer, https://arxiv.org/abs/1912.11370). B batch, C channels, H height, W width."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax.nn import relu

from bit_jax.layers import Dense, GroupNorm, StdConv, max_pool
from bit_jax.model import Model
from common.models import ResNetConfig
from common.models.intermediates import Intermediate, chosen, stage_ends, stage_labels


class Bottleneck(nnx.Module):
    """Pre-activation bottleneck block: norm, ReLU, convolution, three times; the 3x3 strides."""

    def __init__(self, in_width: int, out_width: int, stride: int, config: ResNetConfig):
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

    def __call__(self, x: Array) -> Array:
        out = relu(self.norm1(x))
        shortcut = self.proj(out) if self.proj else x  # the projection sees the activated input
        out = self.conv1(out)
        out = self.conv2(relu(self.norm2(out)))
        out = self.conv3(relu(self.norm3(out)))
        return out + shortcut


class ResNet(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes]."""

    def __init__(self, config: ResNetConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.stem = StdConv(3, config.stem_width, 7, stride=2, epsilon=config.standardization_epsilon)
        self.blocks = nnx.List(Bottleneck(*block, config) for block in config.blocks)
        self.norm = GroupNorm(config.width, num_groups=config.num_groups, epsilon=config.group_norm_epsilon)
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None

    def features(self, images: Array) -> Array:
        """Pooled features [B, width], in the type of the parameters."""
        x = max_pool(self.stem(images), self.config.max_pool_padding)  # [B, H / 4, W / 4, C]
        for block in self.blocks:
            x = self._run(block, x)
        x = relu(self.norm(x))  # [B, H / 32, W / 32, C]
        return x.astype(self.dtype).mean((1, 2))

    def intermediates(
        self, images: Array, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the first convolution and of every stage, which `indices` choose (common/models/intermediates.py).

        With `norm`, the last one is what is pooled: behind norm and ReLU.
        """
        found, ends = [self.stem(images)], stage_ends(self.config.num_units)
        x = max_pool(found[0], self.config.max_pool_padding)
        for i, block in enumerate(self.blocks, start=1):
            x = self._run(block, x)
            found += [x] * (i in ends)
        found[-1] = relu(self.norm(x)) if norm else x
        labels = stage_labels(len(ends))
        return [Intermediate(*labels[i], found[i]) for i in chosen(len(found), indices)]
