"""ResNet V1 in TensorFlow, as in big_vision's `models/bit.py`, and as the backbone of hybrids. B batch, C channels."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import Tensor
from tensorflow.nn import relu

from bit_tf2.keras_model import takes_images, takes_inputs
from bit_tf2.layers import Dense, GroupNorm, Layer, StdConv, max_pool, registered
from bit_tf2.model import Model
from common.models import ResNetV1Config
from common.models.intermediates import Intermediate, chosen, stage_ends, stage_labels


def conv(in_width: int, out_width: int, size: int, stride: int, config: ResNetV1Config) -> StdConv:
    """A convolution as every one of the family is."""
    standardization = {"epsilon": config.standardization_epsilon, "standardization": config.standardization}
    return StdConv(in_width, out_width, size, stride=stride, same=True, **standardization)


def norm(width: int, config: ResNetV1Config) -> GroupNorm:
    """A norm as every one of the family is."""
    return GroupNorm(width, num_groups=config.num_groups, epsilon=config.group_norm_epsilon)


class Stem(Layer):
    """Convolution, norm, ReLU and maximum: [B, H, W, 3] to [B, H / 4, W / 4, C]."""

    def __init__(self, config: ResNetV1Config):
        super().__init__()
        self.conv = conv(3, config.stem_width, 7, 2, config)
        self.norm = norm(config.stem_width, config)

    def call(self, images: Tensor) -> Tensor:
        return max_pool(relu(self.norm(self.conv(images))), "same")


class Bottleneck(Layer):
    """Post-activation bottleneck block: convolution and norm, three times; the 3x3 strides."""

    def __init__(self, in_width: int, out_width: int, stride: int, config: ResNetV1Config):
        super().__init__()
        middle, projects = out_width // 4, in_width != out_width or stride > 1
        self.proj = conv(in_width, out_width, 1, stride, config) if projects else None
        self.proj_norm = norm(out_width, config) if projects else None
        self.conv1, self.norm1 = conv(in_width, middle, 1, 1, config), norm(middle, config)
        self.conv2, self.norm2 = conv(middle, middle, 3, stride, config), norm(middle, config)
        self.conv3, self.norm3 = conv(middle, out_width, 1, 1, config), norm(out_width, config)

    def call(self, x: Tensor) -> Tensor:
        shortcut = self.proj_norm(self.proj(x)) if self.proj else x
        out = relu(self.norm1(self.conv1(x)))
        out = relu(self.norm2(self.conv2(out)))
        return relu(shortcut + self.norm3(self.conv3(out)))


@registered
class Backbone(Model):
    """Images [B, H, W, 3] in [-1, 1] to the last feature map [B, H / stride, W / stride, C]."""

    def __init__(self, config: ResNetV1Config, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.stem = Stem(config)
        self.blocks = [Bottleneck(*block, config) for block in config.blocks]
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None

    @takes_images
    def features(self, images: Tensor) -> Tensor:
        """The last feature map, in the type of the images."""
        x = self.stem(images)
        for block in self.blocks:
            x = self._run(block, x)
        return x

    @takes_inputs
    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the first convolution and of every stage, which `indices` choose (common/models/intermediates.py).

        `norm` changes nothing: what is pooled is the last of them.
        """
        found, ends = [relu(self.stem.norm(self.stem.conv(images)))], stage_ends(self.config.num_units)
        x = max_pool(found[0], "same")
        for i, block in enumerate(self.blocks, start=1):
            x = self._run(block, x)
            found += [x] * (i in ends)
        labels = stage_labels(len(ends))
        return [Intermediate(*labels[i], found[i]) for i in chosen(len(found), indices)]


@registered
class ResNetV1(Backbone):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes]."""

    @takes_images
    def features(self, images: Tensor) -> Tensor:
        """Pooled features [B, width], in the type of the parameters."""
        return tf.reduce_mean(tf.cast(super().features(images), self.dtype), (1, 2))
