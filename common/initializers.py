"""Initial parameter values: a pure function of (seed, parameter name, shape), the same in every engine.

Source: the originals' flax defaults (`bit_jax/models.py` of google-research/big_transfer): LeCun-normal convolutions,
ones and zeros for norms, a head of zeros (`bit_tf2/models.py`, `bit_pytorch/models.py`).
"""

import zlib

import numpy as np


def initial_value(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 value of the parameter `name`; a kernel's fan-in is the product of all axes but the last."""
    if name.startswith("head/") or name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if name.endswith("scale"):
        return np.ones(shape, np.float32)
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    return values / np.float32(np.sqrt(np.prod(shape[:-1])))


def initial_parameters(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """{name: initial value} for every parameter of a model."""
    return {name: initial_value(seed, name, shape) for name, shape in shapes.items()}
