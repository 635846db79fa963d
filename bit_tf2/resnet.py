"""ResNetV2-BiT in TensorFlow (Big Transfer, https://arxiv.org/abs/1912.11370). B batch, C channels, H x W pixels."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import Tensor
from tensorflow.nn import relu

from bit_tf2.keras_model import takes_images, takes_inputs
from bit_tf2.layers import Dense, GroupNorm, Layer, StdConv, max_pool, registered
from bit_tf2.model import Model
from common.models import ResNetConfig
from common.models.intermediates import Intermediate, chosen, stage_ends, stage_labels


class Bottleneck(Layer):
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

    def call(self, x: Tensor) -> Tensor:
        out = relu(self.norm1(x))
        shortcut = self.proj(out) if self.proj else x  # the projection sees the activated input
        out = self.conv1(out)
        out = self.conv2(relu(self.norm2(out)))
        out = self.conv3(relu(self.norm3(out)))
        return out + shortcut


@registered
class ResNet(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes]."""

    def __init__(self, config: ResNetConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.stem = StdConv(3, config.stem_width, 7, stride=2, epsilon=config.standardization_epsilon)
        self.blocks = [Bottleneck(*block, config) for block in config.blocks]
        self.norm = GroupNorm(config.width, num_groups=config.num_groups, epsilon=config.group_norm_epsilon)
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None

    @takes_images
    def features(self, images: Tensor) -> Tensor:
        """Pooled features [B, width], in the type of the parameters."""
        x = max_pool(self.stem(images), self.config.max_pool_padding)  # [B, H / 4, W / 4, C]
        for block in self.blocks:
            x = self._run(block, x)
        x = relu(self.norm(x))  # [B, H / 32, W / 32, C]
        return tf.reduce_mean(tf.cast(x, self.dtype), (1, 2))

    @takes_inputs
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
        found[-1] = relu(self.norm(x)) if norm else x
        labels = stage_labels(len(ends))
        return [Intermediate(*labels[i], found[i]) for i in chosen(len(found), indices)]
