"""What the families have in common in TensorFlow: features, then a head."""

import dataclasses

import keras
import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.devices import FirstDevice
from bit_tf2.keras_model import KerasModel
from bit_tf2.layers import Dense
from common.models import ModelConfig, with_new_head
from common.models.cards import Card, Preprocessing
from common.models.low_rank import layer_of
from common.recipes.lora import A
from common.recipes.recipe import Recipe


class Model(KerasModel):
    """Images [B, H, W, 3] to logits [B, num_classes], or to features where there are no classes.

    `card` holds facts of its weights (common/models/cards.py), `preprocessing` the scale of images: in [-1, 1],
    but for some weights of other projects. With `remat`, the backward pass computes the activations within a block again
    instead of keeping them.
    """

    def __init__(self, config: ModelConfig, *, remat: bool = False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config, self.remat = config, remat
        self.card, self.preprocessing = Card(), Preprocessing()
        self.devices, self.groups = FirstDevice(), ()
        self.built = True

    @property
    def dtype(self) -> tf.DType:
        """Type of the parameters; activations flow in the type of the images."""
        return tf.as_dtype(self.variable_dtype)  # not a variable's, which is the computing type within a mixed call

    @property
    def device(self) -> str:
        """The device of the parameters."""
        return self.weights[0].value.device

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits; None where they are unknown."""
        return self.card.class_names

    @property
    def num_params(self) -> int:
        """Number of parameters, of a replaced head as well."""
        return self.count_params()

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
        with self.devices.scope():
            layer = Dense(in_width, out_width, dtype=self.variable_dtype)
        layer.kernel.assign(tf.zeros_like(layer.kernel))
        return layer

    def _adapt(self) -> None:
        """Add the matrices of LoRA to the layers that are to have some, also within towers."""
        lora = self.config.lora
        for matrix in self.config.lora_shapes():
            if matrix.endswith(A):
                layer_of(self, matrix).adapt(lora.rank, lora.scale)

    def renewed(self, measured: dict[str, Tensor], batch: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """What a training step measured; before that a model may renew what follows the batch and no gradient moves: nothing here."""
        return measured

    def _run(self, block: keras.layers.Layer, x: Tensor, *noise: Tensor | None) -> Tensor:
        """The output of a block."""
        if not self.remat:
            return block(x, *noise)
        # Gradients reach what the function is given, and nothing that it finds around it.
        given = {i: value for i, value in enumerate(noise) if tf.is_tensor(value) and value.dtype.is_floating}

        def again(x: Tensor, *numbers: Tensor) -> Tensor:
            return block(x, *(dict(enumerate(noise)) | dict(zip(given, numbers))).values())

        return tf.recompute_grad(again)(x, *given.values())

    def call(self, images: Tensor, training: bool | None = None, **noise: Tensor) -> Tensor:
        """`training` changes nothing: only noise that is given acts."""
        return self.logits(self.features(images, **noise))

    def logits(self, features: Tensor) -> Tensor:
        """The head's output for features; the features themselves where there is no head."""
        return features if self.head is None else self.head(features)
