"""What the families have in common in TensorFlow: features, then a head; and blocks that may be computed twice."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from common.models import ModelConfig


class Model(keras.Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes], or to features where there are no classes.

    With `remat`, the backward pass computes the activations within a block again instead of keeping them.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False):
        super().__init__(autocast=False)
        self.config, self.remat = config, remat

    @property
    def dtype(self) -> tf.DType:
        """Type of the parameters; activations flow in the type of the images."""
        return tf.as_dtype(self.weights[0].dtype)

    @property
    def device(self) -> str:
        """Where the parameters live."""
        return self.weights[0].value.device

    def run(self, block: keras.layers.Layer, x: Tensor, *noise: Tensor | None) -> Tensor:
        """The output of a block."""
        return tf.recompute_grad(lambda x: block(x, *noise))(x) if self.remat else block(x, *noise)

    def call(self, images: Tensor, **noise: Tensor) -> Tensor:
        features = self.features(images, **noise)
        return self.head(features) if self.head else features
