"""A model's values for a model that differs in its head, its grid of positions, its tokens or its images' channels."""

import dataclasses
from collections.abc import Callable

import numpy as np

from common.models import MixerConfig, ModelConfig, ViTConfig
from common.models.vit import resize_positions
from common.system.errors import UserError
from common.weights.recognise import family_name
from common.weights.table import STEMS, Arrays

SIZES = {  # fields that make a model another one: no values are made for these
    "num_units", "width_factor", "num_groups", "patch_size", "width", "depth", "num_heads", "mlp_dim", "tokens_mlp_dim",
    "channels_mlp_dim",
}  # fmt: skip
Say = Callable[[str], None]


def check_same_model(found: ModelConfig, wanted: ModelConfig, where: object) -> None:
    """Raise UserError where a file holds a model of another family or other sizes."""
    if type(found) is not type(wanted) or family_name(found) != family_name(wanted):
        raise UserError(
            f"{where} holds a {family_name(found)} and the model is a {family_name(wanted)}; choose the --model that the "
            "file was made for."
        )
    backbones = [getattr(config, "backbone", None) for config in (found, wanted)]
    for one, other in ((found, wanted), backbones) if backbones[0] else ((found, wanted),):
        differing = [
            f"{item.name} {getattr(one, item.name)} instead of {getattr(other, item.name)}"
            for item in dataclasses.fields(one)
            if item.name in SIZES and getattr(one, item.name) != getattr(other, item.name)
        ]
        if differing:
            raise UserError(
                f"{where} does not fit the model ({', '.join(differing)}); choose the --model that the file was made for."
            )


def adapt(arrays: Arrays, config: ModelConfig, wanted: ModelConfig, say: Say) -> Arrays:
    """Canonical `arrays` of a model of `config`, for one of `wanted`, of the same sizes (`check_same_model`).

    `say` is called with a line on each change. Raises UserError where a part is missing of which nothing is known.
    """
    arrays = adapt_channels(arrays, say)
    if isinstance(wanted, ViTConfig):
        arrays = adapt_positions(adapt_tokens(arrays, config, wanted, say), config, wanted, say)
    if isinstance(wanted, MixerConfig) and config.grid != wanted.grid:
        shown = [" x ".join(map(str, one.image_size)) for one in (config, wanted)]
        raise UserError(f"The Mixer takes {shown[0]} pixels, to which its token mixing is bound; {shown[1]} cannot be.")
    shapes = wanted.parameter_shapes()
    arrays = adapt_head(arrays, wanted.num_classes, say, shapes.get("head/kernel", (0,))[0])
    missing = [name for name in shapes if name not in arrays]
    if missing:
        raise UserError(
            f"The weights lack {', '.join(missing[:4])} ({len(missing)} in all) of the model; choose another."
        )
    return {name: arrays[name] for name in shapes}


def adapt_channels(arrays: Arrays, say: Say) -> Arrays:
    """A stem for three channels: its own repeated and scaled such that a grey image, say, gives the same features."""
    stem = next(name for name in STEMS if name in arrays)
    channels = arrays[stem].shape[-2]
    if channels == 3:
        return arrays
    say(f"{stem} is for {channels} channels: repeated to 3 and scaled by {channels}/3.")
    repeated = arrays[stem].take(np.arange(3) % channels, axis=-2)
    return arrays | {stem: (repeated * (channels / 3)).astype(repeated.dtype)}


def adapt_tokens(arrays: Arrays, config: ViTConfig, wanted: ViTConfig, say: Say) -> Arrays:
    """With or without a class token, and with or without its position."""
    arrays, had, has = dict(arrays), *(one.pooling == "token" for one in (config, wanted))
    positioned = "pos_embedding" in arrays and had and config.cls_position
    if had and not has:
        say("The class token is dropped: the model pools its patches.")
        arrays.pop("cls")
    if has and not had:
        say("The weights have no class token: it starts at zero.")
        width = arrays["stem/bias"].size
        arrays["cls"] = np.zeros((1, 1, width), arrays["stem/bias"].dtype)
    if "pos_embedding" not in arrays or wanted.positions != "learned":
        return arrays
    first, patches = np.split(arrays["pos_embedding"], [1 if positioned else 0], axis=1)
    wants = has and wanted.cls_position
    if positioned and has and not wants:
        say("The position of the class token is added to it: the model has positions for its patches only.")
        arrays["cls"] = arrays["cls"] + first
    if wants and not positioned:
        first = np.zeros_like(patches[:, :1])
    arrays["pos_embedding"] = np.concatenate([first, patches], 1) if wants else patches
    return arrays


def adapt_positions(arrays: Arrays, config: ViTConfig, wanted: ViTConfig, say: Say) -> Arrays:
    """Learned positions for another grid of patches, as the originals resize them: bilinear, corners aligned."""
    if wanted.positions != "learned" or "pos_embedding" not in arrays:
        return {name: array for name, array in arrays.items() if name != "pos_embedding"}
    if config.grid == wanted.grid:
        return arrays
    shown = [" x ".join(map(str, one.grid)) for one in (config, wanted)]
    say(f"Positions are resized from {shown[0]} to {shown[1]} patches (bilinear, corners aligned).")
    return arrays | {"pos_embedding": resize_positions(arrays["pos_embedding"], config.grid, wanted.grid)}


def adapt_head(
    arrays: Arrays, num_classes: int | None, say: Say = lambda line: None, width: int | None = None
) -> Arrays:
    """A head of zeros where the file's is for another number of classes (the originals' rule), none where none is.

    `width` is the number of features, for files without a head.
    """
    rest = {name: array for name, array in arrays.items() if not name.startswith("head/")}
    if num_classes is None:
        return rest
    classes = arrays["head/bias"].size if "head/bias" in arrays else None
    if classes == num_classes:
        return arrays
    was = f"The head, for {classes} classes, is replaced by" if classes else "The weights have no head: the model gets"
    say(f"{was} one of zeros for {num_classes} classes.")
    width, dtype = arrays["head/kernel"].shape[0] if classes else width, next(iter(rest.values())).dtype
    return rest | {"head/kernel": np.zeros((width, num_classes), dtype), "head/bias": np.zeros(num_classes, dtype)}
