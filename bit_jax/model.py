"""What the families have in common in JAX: features, then a head; and blocks that may be computed twice."""

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

from common.cards import Preprocessing
from common.intermediates import Intermediate
from common.models import ModelConfig

jax.tree_util.register_dataclass(Intermediate, data_fields=["map", "tokens"], meta_fields=["name", "stride"])


class Model(nnx.Module):
    """Images [B, H, W, 3] to logits [B, num_classes], or to features where there are no classes.

    `preprocessing` says how it wants its images: in [-1, 1], but for some weights of other projects. With `remat`,
    the backward pass computes the activations within a block again instead of keeping them.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False):
        self.config, self.remat, self.preprocessing = config, remat, Preprocessing()

    @property
    def dtype(self) -> jnp.dtype:
        """Type of the parameters; activations flow in the type of the images."""
        return jax.tree.leaves(nnx.state(self, nnx.Param))[0].dtype

    @property
    def device(self) -> jax.Device | jax.sharding.Sharding:
        """Where the parameters live."""
        return jax.tree.leaves(nnx.state(self, nnx.Param))[0].device

    def run(self, block: nnx.Module, x: Array, *noise: Array | None) -> Array:
        """The output of a block."""
        return jax.checkpoint(lambda x: block(x, *noise))(x) if self.remat else block(x, *noise)

    def __call__(self, images: Array, **noise: Array) -> Array:
        features = self.features(images, **noise)
        return self.head(features) if self.head else features
