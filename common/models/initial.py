"""Initial parameter values: a pure function of (seed, parameter name, shape), the same in every engine.

A family's row has a table for each original code base. Sources: `bit_tf2/models.py` of google-research/big_transfer,
`vit_jax/models_*.py` of google-research/vision_transformer, `models/*.py` of google-research/big_vision,
`backbones/vit/vit_model.py` of kakaobrain/coyo-vit.
"""

import fnmatch
import zlib
from collections.abc import Callable, Collection

import numpy as np

from common.models.draws import LORA
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
    return drawn_by(seed, rules(config, code_base, prefix))


def draw_some(seed: int, config: Config, names: Collection[str]) -> Arrays:
    """The values of `initial_parameters` that have these names."""
    return drawn_by(seed, {name: rule for name, rule in rules(config, None).items() if name in names})


def drawn_by(seed: int, found: dict[str, tuple[Callable, tuple[int, ...]]]) -> Arrays:
    """{name: value} of how each is drawn, and its shape."""
    return {
        name: rule(np.random.default_rng([seed, zlib.crc32(name.encode())]), shape)
        for name, (rule, shape) in found.items()
    }


def rules(config: Config, code_base: str | None, prefix: str = "") -> dict[str, tuple[Callable, tuple[int, ...]]]:
    """{name: (how it is drawn, shape)}."""
    family, found = FAMILIES[type(config)], {}
    for name, child in config.children.items():
        found |= rules(child, code_base, f"{prefix}{name}/")
    for name, (_, shape) in found.items():
        if rule := first(family.initial_within, name.removeprefix(prefix)):
            found[name] = rule, shape
    table = family.initial.get(code_base) or next(iter(family.initial.values()))
    for rows, shapes in ((table, config.own_shapes()), (LORA, config.lora_shapes())):
        found |= {f"{prefix}{name}": (first(rows, name), shape) for name, shape in shapes.items()}
    return found


def first(table: tuple, name: str) -> Callable | None:
    """How the first row that matches a name draws its values."""
    return next((rule for pattern, rule in table if fnmatch.fnmatchcase(name, pattern)), None)
