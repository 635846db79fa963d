"""Canonical arrays (common/models/) into and out of JAX models and optimizers, without knowing any name."""

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from bit_jax.optim import Optimizer, canonical_name, parameters


def to_array(value: Array) -> np.ndarray:
    """A C-contiguous array of its own: the layouts are HWIO and [in, out] already."""
    if not (value.is_fully_addressable or value.is_fully_replicated):  # other processes have some of it, and ask, too
        value = jax.device_put(value, NamedSharding(value.sharding.mesh, PartitionSpec()))
    return np.array(value, order="C")


def to_value(array: np.ndarray, like: Array | jax.ShapeDtypeStruct) -> Array:
    """The inverse of `to_array`: a value of the type of `like` and in its place."""
    array = np.array(array, like.dtype)
    return jax.make_array_from_callback(array.shape, like.sharding, lambda slices: array[slices])


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """{canonical name: shape} of every parameter, as `dump` gives it."""
    return {canonical_name(path): value.shape for path, value in parameters(model).items()}


def dump(model: nnx.Module) -> dict[str, np.ndarray]:
    """{canonical name: array} of every parameter: copies, C-contiguous, HWIO and [in, out]; bfloat16 as float32."""
    return {canonical_name(path): to_array(widened(value.get_value())) for path, value in parameters(model).items()}


def load(model: nnx.Module, arrays: dict[str, np.ndarray]) -> None:
    """Give every parameter its array; `arrays` must hold exactly the model's names and shapes."""
    for path, value in parameters(model).items():
        value.set_value(to_value(arrays[canonical_name(path)], value.get_value()))


def dump_optimizer(model: nnx.Module, optimizer: Optimizer) -> dict[str, np.ndarray]:
    """{part of the state/canonical name of the parameter: array}; bfloat16 is written as float32."""
    return {
        f"{part}/{canonical_name(path)}": to_array(widened(values[path]))
        for part, values in optimizer.state.items()
        for path in values
    }


def widened(value: Array) -> Array:
    """bfloat16, which numpy lacks, as float32."""
    return value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value


def load_optimizer(model: nnx.Module, optimizer: Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """The inverse of `dump_optimizer`."""
    for part, values in optimizer.state.items():
        for path in values:
            values[path] = to_value(arrays[f"{part}/{canonical_name(path)}"], values[path])
