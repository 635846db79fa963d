"""Initial parameter values: a pure function of (seed, parameter name, shape), the same in every engine.

One table per original code base: the first pattern that a name matches gives its rule. Sources: `bit_tf2/models.py` of
google-research/big_transfer, `vit_jax/models_*.py` of google-research/vision_transformer, `models/*.py` of
google-research/big_vision, `backbones/vit/vit_model.py` of kakaobrain/coyo-vit.
"""

import fnmatch
import math
import zlib

import numpy as np

from common.models import MixerConfig, ModelConfig, ResNetConfig, ResNetV1Config, ViTConfig
from common.system.errors import UserError

Shape = tuple[int, ...]


def zeros(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """0."""
    return np.zeros(shape, np.float32)


def ones(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """1."""
    return np.ones(shape, np.float32)


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


def untruncated_lecun_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal of variance 1 / fan-in."""
    return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(fans(shape)[0]))


def inverse_width_normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Normal of variance 1 / width."""
    return normal(1 / math.sqrt(shape[-1]))(rng, shape)


HEAD_AND_NORMS = (("head/*", zeros), ("*norm*/scale", ones), ("*norm*/bias", zeros))
RESNET_V1 = (("*/norm3/scale", zeros), *HEAD_AND_NORMS, ("*", lecun_normal))
VIT_BIASES = (("*/mlp/*/bias", normal(1e-6)), ("*/bias", zeros), ("cls", zeros))
VIT = (
    ("backbone/*/norm3/scale", zeros),
    *HEAD_AND_NORMS,
    *VIT_BIASES,
    ("*/attn/*", glorot_uniform),
    ("*/mlp/*", glorot_uniform),
    ("pool/probe", glorot_uniform),
)
TABLES = {  # (code base, family) -> rows of (pattern, rule)
    ("big_transfer", ResNetConfig): (*HEAD_AND_NORMS, ("*", untruncated_lecun_normal)),
    ("big_vision", ResNetConfig): (*HEAD_AND_NORMS, ("*", lecun_normal)),
    ("big_vision", ResNetV1Config): RESNET_V1,
    ("vision_transformer", ViTConfig): (*VIT, ("pos_embedding", normal(0.02)), ("*", lecun_normal)),
    ("big_vision", ViTConfig): (*VIT, ("pos_embedding", inverse_width_normal), ("*", lecun_normal)),
    ("coyo", ViTConfig): (
        *HEAD_AND_NORMS,
        *VIT_BIASES,
        ("*/attn/*", glorot_normal),
        ("*/mlp/fc1/*", glorot_normal),
        ("pos_embedding", normal(0.02)),
        ("*", glorot_uniform),
    ),
    ("vision_transformer", MixerConfig): (*HEAD_AND_NORMS, ("*/bias", zeros), ("*", lecun_normal)),
}


def initial_parameters(seed: int, config: ModelConfig, code_base: str | None = None) -> dict[str, np.ndarray]:
    """{name: float32 initial value} for every parameter of a model, as a code base draws them.

    `code_base` defaults to the first that has the family: big_transfer for BiT, big_vision for ResNet V1,
    vision_transformer for the others. Raises UserError for a code base without the family.
    """
    tables = {name: rows for (name, family), rows in TABLES.items() if family is type(config)}
    name = code_base or next(iter(tables))
    if name not in tables:
        raise UserError(f"{name} has no {type(config).__name__}; take the initial values of {', '.join(tables)}.")
    shapes = config.parameter_shapes()
    return {parameter: initial_value(seed, parameter, shape, tables[name]) for parameter, shape in shapes.items()}


def initial_value(seed: int, name: str, shape: Shape, table: tuple) -> np.ndarray:
    """float32 value of the parameter `name` by the first row of `table` that it matches."""
    rule = next(rule for pattern, rule in table if fnmatch.fnmatchcase(name, pattern))
    return rule(np.random.default_rng([seed, zlib.crc32(name.encode())]), shape)
