"""Initial parameter values: a pure function of (seed, parameter name, shape), the same in every engine.

A family's row has a table for each original code base. Sources: `bit_tf2/models.py` of google-research/big_transfer,
`vit_jax/models_*.py` of google-research/vision_transformer, `models/*.py` of google-research/big_vision,
`backbones/vit/vit_model.py` of kakaobrain/coyo-vit.
"""

import fnmatch
import zlib

import numpy as np

from common.models.families import FAMILIES, ModelConfig
from common.models.family import Arrays, Config
from common.system.errors import UserError


def initial_parameters(seed: int, config: ModelConfig, code_base: str | None = None) -> Arrays:
    """{name: float32 initial value} for every parameter of a model, as a code base draws them.

    `code_base` defaults to the first that has the family: big_transfer for BiT, big_vision for ResNet V1,
    vision_transformer for the others. Raises UserError for a code base without the family.
    """
    tables = FAMILIES[type(config)].initial
    if code_base not in (None, *tables):
        raise UserError(f"{code_base} has no {type(config).__name__}; take the initial values of {', '.join(tables)}.")
    drawn = draw(seed, config, code_base)
    return {name: drawn[name] for name in config.parameter_shapes()}


def draw(seed: int, config: Config, code_base: str | None, prefix: str = "") -> Arrays:
    """The values of a model whose names begin with `prefix`: its children's by the tables of their own families."""
    tables, arrays = FAMILIES[type(config)].initial, {}
    for name, child in config.children.items():
        arrays |= draw(seed, child, code_base, f"{prefix}{name}/")
    table = tables.get(code_base) or next(iter(tables.values()))
    for name, shape in config.own_shapes().items():
        rule = next(rule for pattern, rule in table if fnmatch.fnmatchcase(name, pattern))
        whole = f"{prefix}{name}"
        arrays[whole] = rule(np.random.default_rng([seed, zlib.crc32(whole.encode())]), shape)
    return arrays
