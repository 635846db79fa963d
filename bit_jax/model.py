"""The shared part of the families in JAX: features, then a head; blocks that may be computed twice."""

import dataclasses

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import Dense
from common.models import ModelConfig, with_new_head
from common.models.cards import Card, Preprocessing
from common.models.intermediates import Intermediate
from common.models.low_rank import layer_of
from common.recipes.lora import A
from common.recipes.recipe import Recipe

jax.tree_util.register_dataclass(Intermediate, data_fields=["map", "tokens"], meta_fields=["name", "stride"])


class Model(nnx.Module):
    """Images [B, H, W, 3] to logits [B, num_classes], or to features where there are no classes.

    `card` holds facts of its weights (common/models/cards.py), `preprocessing` the scale of images: in [-1, 1],
    but for some weights of other projects. With `remat`, the backward pass computes the activations within a block again
    instead of keeping them.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False):
        self.config, self.remat, self.precision = config, remat, "float32"
        self.card, self.preprocessing = Card(), Preprocessing()

    @property
    def dtype(self) -> jnp.dtype:
        """Type of the parameters; activations flow in the type of the images."""
        return jax.tree.leaves(nnx.state(self, nnx.Param))[0].dtype

    @property
    def compute_dtype(self) -> jnp.dtype:
        """Type in which images are given to the model: bfloat16 if it was built for it, or else that of the parameters."""
        return jnp.dtype(jnp.bfloat16) if self.precision == "bfloat16" else self.dtype

    @property
    def device(self) -> jax.Device | jax.sharding.Sharding:
        """The device of the parameters."""
        return jax.tree.leaves(nnx.state(self, nnx.Param))[0].device

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits; None where they are unknown."""
        return self.card.class_names

    @property
    def num_params(self) -> int:
        """Number of parameters, of a replaced head as well."""
        return sum(value.size for value in jax.tree.leaves(nnx.state(self, nnx.Param)))

    def reset_head(self, num_classes: int) -> None:
        """Put a head of zeros for `num_classes` in the place of the model's, or none for 0; names of classes are forgotten.

        An optimizer made before has the old head's parameters. Raises UserError for what is no number of classes.
        """
        wanted = with_new_head(self.config, num_classes)
        shapes = wanted.parameter_shapes()
        for name in ("head", "head_dist") if hasattr(self, "head_dist") else ("head",):
            setattr(self, name, self._zeros(*shapes[f"{name}/kernel"]) if f"{name}/kernel" in shapes else None)
        self.config, self.card = wanted, dataclasses.replace(self.card, class_names=None)

    def _zeros(self, in_width: int, out_width: int) -> Dense:
        """A dense layer of zeros."""
        layer = Dense(in_width, out_width)
        for value in (layer.kernel, layer.bias):
            place = self.devices.place_of_parameter(value.shape)
            value.set_value(jnp.zeros(value.shape, self.dtype, device=place))
        return layer

    def _adapt(self) -> None:
        """Add the matrices of LoRA to the layers that are to have some, also within towers."""
        lora = self.config.lora
        for matrix in self.config.lora_shapes():
            if matrix.endswith(A):
                layer_of(self, matrix).adapt(lora.rank, lora.scale)

    def renewed(self, measured: dict[str, Array], batch: dict[str, Array], recipe: Recipe) -> dict[str, Array]:
        """What a training step measured; before that a model may renew what follows the batch and no gradient moves: nothing here."""
        return measured

    def _run(self, block: nnx.Module, x: Array, *noise: Array | None) -> Array:
        """The output of a block."""
        return jax.checkpoint(lambda x: block(x, *noise))(x) if self.remat else block(x, *noise)

    def __call__(self, images: Array) -> Array:
        return self.logits(self.features(images))

    def logits(self, features: Array) -> Array:
        """The head's output for features; the features themselves where there is no head."""
        return features if self.head is None else self.head(features)
