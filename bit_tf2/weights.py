"""Canonical arrays (common/models/) into and out of Keras models and optimizers, without knowing any name."""

import keras
import numpy as np
import tensorflow as tf

from bit_tf2.optim import Optimizer, canonical_name, parameters
from common.weights import refuse_unbuilt


def to_array(value: tf.Variable) -> np.ndarray:
    """A C-contiguous array of its own: the layouts are HWIO and [in, out] already."""
    return np.array(value.numpy(), order="C")


def shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """{canonical name: shape} of every parameter, as `dump` gives it; Keras's path where one has no name of ours.

    UserError for a head that has none yet.
    """
    head = getattr(model, "head", None)  # which a VQ-VAE has not
    if head and not head.built:
        refuse_unbuilt(type(head).__name__)
    ours = parameters(model)
    found = {canonical_name(path): tuple(value.shape) for path, value in ours.items()}
    named = {*map(id, ours.values())}
    return found | {value.path: tuple(value.shape) for value in model.weights if id(value.value) not in named}


def dump(model: keras.Model) -> dict[str, np.ndarray]:
    """{canonical name: array} of every parameter: copies, C-contiguous, HWIO and [in, out]; bfloat16 as float32."""
    return {canonical_name(path): to_array(widened(value)) for path, value in parameters(model).items()}


def load(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Give every parameter its array; `arrays` must hold exactly the model's names and shapes."""
    for path, value in sorted(parameters(model).items(), key=lambda item: -item[1].shape.num_elements()):
        # The largest first: TensorFlow copies each on its way, and so while the others are still uninitialized.
        value.assign(arrays[canonical_name(path)].astype(value.dtype.name, copy=False))


def dump_optimizer(model: keras.Model, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """{part of the state/canonical name of the parameter: array}; bfloat16 is written as float32."""
    return {
        f"{part}/{canonical_name(path)}": to_array(widened(values[path]))
        for part, values in optimizer.state.items()
        for path in values
    }


def widened(value: tf.Variable) -> tf.Tensor | tf.Variable:
    """bfloat16, which numpy lacks, as float32."""
    return tf.cast(value, tf.float32) if value.dtype == tf.bfloat16 else value


def load_optimizer(model: keras.Model, optimizer: Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """The inverse of `dump_optimizer`."""
    for part, values in optimizer.state.items():
        for path in values:
            values[path].assign(tf.cast(arrays[f"{part}/{canonical_name(path)}"], values[path].dtype))
