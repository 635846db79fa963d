"""How initial values are drawn: each a function of (generator, shape) that returns float32 values.

A family lists (pattern of names, draw) for each of its original code bases; the first pattern that a name matches counts.
"""

import math

import numpy as np

from common.recipes.lora import A, B

Shape = tuple[int, ...]


def zeros(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """0."""
    return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """1."""
    return np.ones(shape, np.float32)


def constant(value: float):
    """One value."""
    return lambda rng, shape: np.full(shape, value, np.float32)


def normal(deviation: float):
    """Normal with a fixed standard deviation."""
    return lambda rng, shape: np.float32(deviation) * rng.standard_normal(shape, np.float32)


def fans(shape: Shape) -> tuple[int, int]:
    """(inputs, outputs) that one output and one input of a kernel touch; the last two axes are channels."""
    receptive_field = math.prod(shape[:-2])
    return receptive_field * shape[-2], receptive_field * shape[-1]


def truncated_normal(rng: np.random.Generator, shape: Shape, deviation: float) -> np.ndarray:
    """Normal within two deviations, widened such that `deviation` is what remains."""
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(np.count_nonzero(outside), np.float32)
    return values * np.float32(deviation / 0.87962566103423978)  # the deviation of a unit normal within two


def lecun_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Truncated normal of variance 1 / fan-in: flax's default for dense layers and convolutions."""
    return truncated_normal(rng, shape, math.sqrt(1 / fans(shape)[0]))


def glorot_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Truncated normal of variance 2 / (fan-in + fan-out)."""
    return truncated_normal(rng, shape, math.sqrt(2 / sum(fans(shape))))


def glorot_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Uniform of variance 2 / (fan-in + fan-out), also called Xavier uniform."""
    limit = np.float32(math.sqrt(6 / sum(fans(shape))))
    return limit * (2 * rng.random(shape, np.float32) - 1)


def fan_in_uniform(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Uniform of variance 1 / (3 * fan-in): PyTorch's default, which peft takes for the first matrix of LoRA."""
    limit = np.float32(math.sqrt(1 / fans(shape)[0]))
    return limit * (2 * rng.random(shape, np.float32) - 1)


def untruncated_lecun_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal of variance 1 / fan-in."""
    return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(fans(shape)[0]))


def inverse_width_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal of variance 1 / width."""
    return normal(1 / math.sqrt(shape[-1]))(rng, shape)


LORA = ((f"*/{A}", fan_in_uniform), (f"*/{B}", zeros))
HEAD_AND_NORMS = (("head/*", zeros), ("*norm*/scale", ones), ("*norm*/bias", zeros))  # in every code base
