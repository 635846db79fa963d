"""The families of models, and what follows from their rows: architectures by name, counts of parameters, records."""

import dataclasses
import functools
import math
import typing
from typing import Any

from common.models import bert, decoder, mixer, resnet, resnet_v1, text, two_towers, vit, vqvae
from common.models.family import Config, Family
from common.models.later_vits import LATER
from common.system.errors import UserError, nearest

ROWS = (
    resnet.FAMILY,
    resnet_v1.FAMILY,
    vit.FAMILY,
    mixer.FAMILY,
    text.FAMILY,
    bert.FAMILY,
    two_towers.FAMILY,
    decoder.FAMILY,
    vqvae.FAMILY,
)
FAMILIES: dict[type, Family] = {row.config: row for row in ROWS}
ModelConfig = Config  # of any of them


@functools.cache
def architectures() -> dict[str, ModelConfig]:
    """{name: config for 1,000 classes and, where the size matters, 224 pixels} of every variant of every family.

    BiT's names are `R50x1`, ResNet V1's `R50`; the others are the papers': `ViT-B/16`, `R50+ViT-B/16`, `Mixer-B/16`.
    """
    return {name: config for family in FAMILIES.values() for name, config in family.variants.items()}


def find_architecture(name: str, **changes) -> ModelConfig:
    """The architecture called `name` with changed fields; UserError with the nearest names when there is none."""
    if name not in architectures():
        raise UserError(f"No architecture is called {name!r}{nearest(name, architectures())} See common/models/.")
    return dataclasses.replace(architectures()[name], **changes)


def architecture_name(config: ModelConfig) -> str | None:
    """The name under which the sizes of a model were published, if possible for images of its size."""
    variants = FAMILIES[type(config)].variants.items()
    same = [
        (variant.image_size == config.image_size, name) for name, variant in variants if sizes(variant) == sizes(config)
    ]
    usual = [one for one in same if one[1] not in LATER] or same  # a DINO is a plain ViT, whose name says more
    return max(usual, key=lambda one: one[0])[1] if usual else None


def family_name(config: ModelConfig) -> str:
    """The name of a configuration's family, in words."""
    family = FAMILIES[type(config)]
    return family.parent if config.children and family.parent else family.name


def some(config: ModelConfig) -> str:
    """`a ViT`, `an image-text model`."""
    name = family_name(config)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def sizes(config: Config) -> dict[str, Any]:
    """{field: value} of what makes a model another one, its children's below the name of each."""
    own = {name: getattr(config, name) for name in FAMILIES[type(config)].sizes}
    for name, child in config.children.items():
        own |= {f"{name} {field}": value for field, value in sizes(child).items()}
    return own


def with_noise(config: ModelConfig, dropout: float, stochastic_depth: float, patch_dropout: float = 0.0) -> ModelConfig:
    """`config` for a training run with these rates; UserError where the family has no such thing, or nothing is left."""
    if stochastic_depth and not config.num_branches:
        raise UserError(f"--stochastic_depth {stochastic_depth} is for ViT and Mixer only; give 0.")
    if dropout and not config.num_dropouts:
        raise UserError(f"--dropout {dropout} is for ViT only; give 0.")
    if patch_dropout and not config.num_patches:
        raise UserError(
            f"--patch_dropout {patch_dropout} is for ViTs that pool all their patches or a class token; give 0."
        )
    if patch_dropout and not num_kept(config.num_patches, patch_dropout):
        raise UserError(
            f"--patch_dropout {patch_dropout} leaves none of the {config.num_patches} patches of an image; give less."
        )
    return dataclasses.replace(config, dropout=dropout) if config.num_dropouts else config


def num_kept(num_patches: int, patch_dropout: float) -> int:
    """Patches that are left of an image: what is whole of num_patches * (1 - patch_dropout)."""
    return int(num_patches * (1 - patch_dropout) + 1e-6)  # of 10 at 0.9 one: the product is 0.9999999999999998


def num_parameters(config: ModelConfig) -> int:
    """Number of parameters, counted without allocating any."""
    return sum(math.prod(shape) for shape in config.parameter_shapes().values())


def head_classes(wanted: int | None, known: int | None) -> int | None:
    """The number of classes of a head: `wanted`, or else the `known` one; None without a head, which 0 asks for.

    Raises UserError for what is no number of classes.
    """
    if wanted is None:
        return known
    if not isinstance(wanted, int) or wanted < 0:
        raise UserError(f"num_classes is {wanted!r}, expected a number of classes, or 0 for a model without a head.")
    return int(wanted) or None


def has_classes(config: ModelConfig) -> bool:
    """Whether a model of this kind may have a head of classes."""
    return any(field.name == "num_classes" for field in dataclasses.fields(config))


def with_new_head(config: ModelConfig, num_classes: int) -> ModelConfig:
    """The same for as many classes, or for 0 none. Raises UserError for a model that cannot have any."""
    if not has_classes(config):
        raise UserError(
            f"A model of the family {family_name(config)} has no head of classes to be reset; choose another model."
        )
    return dataclasses.replace(config, num_classes=head_classes(num_classes, None))


# --- configurations as records


def dump_config(config: ModelConfig) -> dict[str, Any]:
    """A configuration as JSON can hold it; of a child, `family` stands where its field takes several."""
    record = {"family": type(config).__name__} | dataclasses.asdict(config)
    types = typing.get_type_hints(type(config))
    for name, child in config.children.items():
        record[name] = dump_config(child)
        if len(kinds(types[name])) == 1:
            del record[name]["family"]
    return record


def parse_config(record: Any, where: object) -> ModelConfig:
    """The configuration that `dump_config` wrote. UserError for anything else."""
    try:
        fields = dict(record)
        return parse_fields({family.__name__: family for family in FAMILIES}[fields.pop("family")], fields)
    except UserError as error:
        raise UserError(f"{where} holds no configuration of a model: {error} Restore or remove it.") from error
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"{where} holds no configuration of a model ({error!r}); restore or remove it.") from error


def parse_fields(family: type[Config], fields: dict[str, Any]) -> Config:
    """A configuration of `family`; of its children, which are objects, the type is the field's, or what they state."""
    types = typing.get_type_hints(family)
    parsed = {}
    for name, value in fields.items():
        allowed = kinds(types.get(name))
        if value and allowed:
            stated = dict(value).get("family", next(iter(allowed)))
            value = {key: item for key, item in dict(value).items() if key != "family"}
        parsed[name] = parse_fields(allowed[stated], value) if value and allowed else tupled(value)
    return family(**parsed)


def kinds(hint: Any) -> dict[str, type[Config]]:
    """{name: family} of the configurations that a field of this type takes; of a `Config`, any."""
    given = typing.get_args(hint) or (hint,)
    return {family.__name__: family for family in FAMILIES if family in given or Config in given}


def tupled(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(value) if isinstance(value, list) else value
