"""A model's values for a model that differs in its head, its images' channels, or what its family's row can adapt."""

import numpy as np

from common.models import FAMILIES, ModelConfig, family_name
from common.models.families import sizes, some
from common.models.family import Arrays, Config, Say, parted, within
from common.system.errors import UserError


def check_same_model(found: ModelConfig, wanted: ModelConfig, where: object) -> None:
    """Raise UserError where a file holds a model of another family or other sizes."""
    if type(found) is not type(wanted) or family_name(found) != family_name(wanted):
        raise UserError(
            f"{where} holds {some(found)} and the model is {some(wanted)}; choose the --model that the "
            "file was made for."
        )
    theirs, ours = sizes(found), sizes(wanted)
    differing = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if differing:
        other = ", or give --patch_size" if any("patch_size" in one for one in differing) else ""
        raise UserError(
            f"{where} does not fit the model ({', '.join(differing)}); choose the --model that the file was made for{other}."
        )


def adapt(arrays: Arrays, config: ModelConfig, wanted: ModelConfig, say: Say) -> Arrays:
    """Canonical `arrays` of a model of `config`, for one of `wanted`, of the same sizes (`check_same_model`).

    `say` is called with a line on each change. Raises UserError where a part is missing of which nothing is known.
    """
    arrays = adapt_parts(adapt_channels(arrays, say, config.image_kernel), config, wanted, say)
    shapes = wanted.parameter_shapes()
    missing = [name for name in shapes if name not in arrays]
    if missing:
        raise UserError(
            f"The weights lack {', '.join(missing[:4])} ({len(missing)} in all) of the model; choose another."
        )
    return {name: arrays[name] for name in shapes}


def adapt_parts(arrays: Arrays, config: Config, wanted: Config, say: Say) -> Arrays:
    """The same for its children, and then for what is its own."""
    own, parts = parted(arrays, wanted)
    arrays = {}
    for name, part in parts.items():
        arrays |= within(name, adapt_parts(part, config.children[name], wanted.children[name], say))
    own, shapes = FAMILIES[type(wanted)].adapt(own, config, wanted, say), wanted.own_shapes()
    for name, tell in (("head", say), ("head_dist", lambda line: None)):  # the second, of a distilled ViT, as the first
        width, classes = shapes.get(f"{name}/kernel", (None, None))
        own = adapt_head(own, classes, tell, width, bias=f"{name}/bias" in shapes, name=name)
    return arrays | own


def adapt_channels(arrays: Arrays, say: Say, stem: str | None = Config.image_kernel) -> Arrays:
    """A `stem` for three channels: its own repeated and scaled such that a grey image, say, gives the same features."""
    channels = arrays[stem].shape[-2] if stem else 3
    if channels == 3:
        return arrays
    say(f"{stem} is for {channels} channels: repeated to 3 and scaled by {channels}/3.")
    repeated = arrays[stem].take(np.arange(3) % channels, axis=-2)
    return arrays | {stem: (repeated * (channels / 3)).astype(repeated.dtype)}


def adapt_head(
    arrays: Arrays,
    num_classes: int | None,
    say: Say = lambda line: None,
    width: int | None = None,
    *,
    bias: bool = True,
    name: str = "head",
) -> Arrays:
    """A head of zeros where the file's is for another number of classes (the originals' rule), none where none is.

    `width` is the number of features, for files without a head; `bias`: whether the head has one; `name`: the head's.
    """
    kernel, offset = f"{name}/kernel", f"{name}/bias"
    rest = {each: array for each, array in arrays.items() if not each.startswith(f"{name}/")}
    if num_classes is None:
        return rest
    classes, dtype = (
        arrays[kernel].shape[-1] if kernel in arrays else None,
        next(iter(rest.values())).dtype,
    )
    zeros = {offset: np.zeros(num_classes, dtype)} if bias else {}
    if classes == num_classes and (bias or offset not in arrays):
        return arrays if offset in arrays or not bias else arrays | zeros
    was = f"The head, for {classes} classes, is replaced by" if classes else "The weights have no head: the model gets"
    say(f"{was} one of zeros for {num_classes} classes.")
    width = arrays[kernel].shape[0] if classes else width
    return rest | {kernel: np.zeros((width, num_classes), dtype)} | zeros
