"""The layers in which frameworks differ: weight-standardised convolution, group norm and the stem's max-pool.

Activations flow in the type of the images; parameters, norms and standardisation keep the type of the parameters.
"""

import keras
import tensorflow as tf
from tensorflow import Tensor


class StdConv(keras.layers.Layer):
    """Convolution without bias whose kernel is standardised over H, W and input channels, with symmetric padding.

    Source: Weight Standardization (https://arxiv.org/abs/1903.10520); epsilon is added to the biased variance.
    """

    def __init__(self, in_width: int, out_width: int, kernel_size: int, *, stride: int = 1, epsilon: float):
        super().__init__(autocast=False)
        self.kernel = self.add_weight((kernel_size, kernel_size, in_width, out_width), "zeros", name="kernel")
        self.stride, self.padding = stride, (kernel_size - 1) // 2  # "same" would pad asymmetrically where it strides
        self.epsilon = epsilon
        self.built = True  # every variable exists; Keras need not look for more

    def call(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        kernel = tf.convert_to_tensor(self.kernel)
        mean, variance = tf.nn.moments(kernel, (0, 1, 2))
        kernel = (kernel - mean) / tf.sqrt(variance + self.epsilon)
        padding = ((0, 0), (self.padding, self.padding), (self.padding, self.padding), (0, 0))
        return tf.nn.conv2d(x, tf.cast(kernel, x.dtype), self.stride, padding)


class GroupNorm(keras.layers.Layer):
    """Group norm in the type of its parameters (https://arxiv.org/abs/1803.08494)."""

    def __init__(self, width: int, *, num_groups: int, epsilon: float):
        super().__init__(autocast=False)
        self.scale = self.add_weight((width,), "zeros", name="scale")
        self.bias = self.add_weight((width,), "zeros", name="bias")
        self.num_groups, self.epsilon = num_groups, epsilon
        self.built = True

    def call(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        values = tf.cast(x, self.dtype)
        values -= self.group_mean(values)
        variance = self.group_mean(tf.square(values))  # stable: of deviations
        return tf.cast(values * (self.scale / tf.sqrt(variance + self.epsilon)) + self.bias, x.dtype)

    def group_mean(self, values: Tensor) -> Tensor:
        """Mean over H, W and the channels of a group, for each channel: [B, 1, 1, C].

        In two steps: with one mean over three axes, a training step on a CPU takes half as long again.
        """
        means = tf.reduce_mean(values, (1, 2))  # [B, C]
        size = means.shape[1] // self.num_groups
        means = tf.reduce_mean(tf.reshape(means, (-1, self.num_groups, size)), 2)  # [B, G]
        return tf.repeat(means, size, axis=1)[:, None, None]


def max_pool(x: Tensor) -> Tensor:
    """3x3 maximum with stride 2. The border is padded with zeros, as in the original, not with -infinity."""
    return tf.nn.max_pool2d(tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, "VALID")
