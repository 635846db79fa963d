"""What makes the zoo's models models of Keras: policies, symbolic inputs, summaries, and files."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import weights
from bit_tf2.layers import Layer, Traced, dtype_policy, registered
from common.models import ModelConfig
from common.models.cards import parse_card
from common.models.families import dump_config, parse_config
from common.models.initial import initial_parameters
from common.models.intermediates import Intermediate
from common.system.errors import UserError
from common.weights import fitted_config
from common.weights.adapt import check_same_model
from common.weights.containers import RECORD, open_container

PRECISIONS = {  # policy of Keras -> type of the computation; a mixed one keeps parameters in float32
    "float32": "float32", "float64": "float64", "mixed_bfloat16": "bfloat16", "mixed_float16": "float16",
}  # fmt: skip


def checked_policy(policy: keras.DTypePolicy) -> keras.DTypePolicy:
    """A policy that the zoo's models can have. UserError for another."""
    if policy.name not in PRECISIONS:
        raise UserError(
            f"Keras's dtype policy is {policy.name!r} and the zoo's parameters are float32 or float64; choose one of "
            f"{', '.join(PRECISIONS)}."
        )
    return policy


def takes_images(features: Callable) -> Callable:
    """A method `features` that takes its images in the model's computing type, and a `keras.Input` as well.

    Images of 16 bits stay as they are: activations flow in their type.
    """

    @functools.wraps(features)
    def prepared(self, images: Tensor | keras.KerasTensor, *noise: Tensor, **named: Tensor) -> Tensor:
        if isinstance(images, keras.KerasTensor):
            return Features(self)(images)
        return features(self, computed(self, images), *noise, **named)

    return prepared


def computed(model: "KerasModel", images: Tensor) -> Tensor:
    """Images in the computing type of a model; those of 16 bits as they are."""
    images = tf.convert_to_tensor(images)
    return tf.cast(images, model.compute_dtype) if images.dtype in (tf.float32, tf.float64) else images


def takes_inputs(intermediates: Callable) -> Callable:
    """A method `intermediates` that takes its images in the model's computing type, and a `keras.Input` as well."""

    @functools.wraps(intermediates)
    def prepared(self, images: Tensor | keras.KerasTensor, **options) -> list[Intermediate]:
        if not isinstance(images, keras.KerasTensor):
            return intermediates(self, computed(self, images), **options)
        layer = Intermediates(self, options)
        found = layer(images)
        return [Intermediate(*label, **tensors) for label, tensors in zip(layer.labels, found, strict=True)]

    return prepared


class KerasModel(Traced, keras.Model):
    """What Keras's own models offer: layers that may be replaced, shapes, export, and files with a configuration."""

    def __setattr__(self, name: str, value: Any) -> None:
        """A layer that takes the place of another is the model's instead of it: Keras would go on to count and train both."""
        old = vars(self).get(name)
        if isinstance(old, keras.layers.Layer) and old is not value:
            self._tracker.untrack(old)
        super().__setattr__(name, value)

    @property
    def images_shape(self) -> tuple[int | None, ...]:
        """(None, H, W, 3), without H and W where images may have any size."""
        return (None, *(self.config.image_size or (None, None)), 3)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Note the shapes of what every layer takes, which the constructor does not know; it takes seconds."""
        for layer in self._flatten_layers(include_self=False):
            if isinstance(layer, Layer | KerasModel):
                layer.built = False
        self.compute_output_spec(keras.KerasTensor(input_shape, self.variable_dtype))

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Nothing: a model is whole once it is constructed."""

    def _lock_state(self) -> None:
        """Nothing: a head may be replaced at any time."""

    def summary(self, *args, **kwargs) -> None:
        """Keras's table of layers, of their shapes and numbers of parameters."""
        if self.stem.get_build_config() is None:
            self.build(self.images_shape)
        super().summary(*args, **kwargs)

    def export(
        self, filepath: str, format: str = "tf_saved_model", verbose=None, input_signature=None, **kwargs
    ) -> None:
        """Keras's export; without a signature, for any number of images of the model's size."""
        images = keras.InputSpec(shape=self.images_shape, dtype=self.variable_dtype, name="images")
        super().export(filepath, format, verbose, input_signature or [images], **kwargs)

    @property
    def facts(self) -> dict[str, Any]:
        """What this model is and how it wants its images, as JSON: its head may have been replaced by a dense layer."""
        config, prepared = fitted_config(self.config, weights.shapes(self)), dataclasses.asdict(self.preprocessing)
        return json.loads(json.dumps({"config": dump_config(config), "preprocessing": prepared}))

    def get_config(self) -> dict[str, Any]:
        told = {"card": json.loads(json.dumps(self.card.facts())), "remat": self.remat}
        return super().get_config() | self.facts | told | {"frozen": list(frozen_layers(self))}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> Self:
        """The model of `get_config`, with initial values (seed 0). Raises UserError for what is no configuration."""
        config = dict(config)
        where = f"The description of the {cls.__name__}"
        model_config = parse_config(config.pop("config", None), where)
        prepared = known(config.pop("preprocessing", {}))
        card = parse_card(config.pop("card", {}), where)
        policy, frozen = checked_policy(keras.dtype_policies.get(config.pop("dtype", None))), config.pop("frozen", [])
        model = construct(cls, model_config, policy, **config)
        for path, layer in layers_by_path(model):
            layer.trainable = layer.trainable and path not in frozen
        model.card, model.preprocessing = card, parse_card(prepared, where).preprocessing
        weights.load(model, initial_parameters(0, model_config))
        return model

    def quantize(self, mode: str, **kwargs) -> None:
        """Raises UserError: Keras leaves out layers that are not its own and would say that it is done."""
        raise UserError(
            f"Keras cannot quantize ({mode}) layers that are not its own; export the model, and quantize what was exported."
        )

    def save_own_variables(self, store: dict) -> None:
        super().save_own_variables(store)
        record = self.card.facts() | {"config": self.facts["config"]} | known(self.facts["preprocessing"])
        store[RECORD] = np.frombuffer(json.dumps(record).encode(), np.uint8)

    def load_own_variables(self, store: dict) -> None:
        names = set(store.keys())
        super().load_own_variables({name: store[name] for name in names - {RECORD}})
        self.check_record(np.asarray(store[RECORD]).tobytes() if RECORD in names else None, "The file")

    def load_weights(self, filepath: str | Path, skip_mismatch: bool = False, **kwargs) -> None:
        """Keras's, which ignores what a file has too much: a model of other sizes is refused before a value changes."""
        if str(filepath).endswith(".weights.h5") and not skip_mismatch:
            with open_container(Path(filepath)) as file:
                self.check_record(file.metadata.get(RECORD), filepath)
        super().load_weights(filepath, skip_mismatch, **kwargs)

    def check_record(self, record: str | bytes | None, where: object) -> None:
        """Raise UserError where the record in a file of Keras's is of another model."""
        if record is None:
            raise UserError(f"{where} does not tell which model it holds; read it with `bit_tf2.load_weights`.")
        check_same_model(parse_config(json.loads(record)["config"], where), self.config, where)


def known(facts: dict[str, Any]) -> dict[str, Any]:
    """What is known of some facts, as in a card."""
    return {name: value for name, value in facts.items() if value is not None}


def construct(cls: type[KerasModel], config: ModelConfig, policy: keras.DTypePolicy, **options) -> KerasModel:
    """A model without values; its layers have the type of its parameters, and the policy decides that of the images."""
    with dtype_policy(policy.variable_dtype):
        return cls(config, dtype=policy, **options)


def layers_by_path(layer: keras.layers.Layer, path: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """(path of attributes, layer) of all layers within one, the outer before the inner."""
    for name, value in vars(layer).items():
        for number, item in enumerate(value) if isinstance(value, list) else (("", value),):
            if isinstance(item, keras.layers.Layer) and not name.startswith("_"):
                here = f"{path}{name}/{number}".rstrip("/")
                yield here, item
                yield from layers_by_path(item, f"{here}/")


def frozen_layers(model: KerasModel) -> Iterator[str]:
    """Paths of the layers that are not trainable."""
    return (path for path, layer in layers_by_path(model) if not layer.trainable)


@registered
class Features(Layer):
    """`model.features` as a layer, of models that are built around a zoo's model."""

    def __init__(self, model: KerasModel, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, images: Tensor) -> Tensor:
        return self.model.features(images)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config | {"model": keras.saving.deserialize_keras_object(config["model"])})


@registered
class Intermediates(Features):
    """`model.intermediates` as a layer: for each of them its `map`, and its `tokens` where it has some."""

    def __init__(self, model: KerasModel, options: dict[str, Any], **kwargs):
        super().__init__(model, **kwargs)
        self.options, self.labels = options, []

    def call(self, images: Tensor) -> list[dict[str, Tensor]]:
        found = self.model.intermediates(images, **self.options)
        self.labels = [(each.name, each.stride) for each in found]
        return [known({"map": each.map, "tokens": each.tokens}) for each in found]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"options": dict(self.options)}
