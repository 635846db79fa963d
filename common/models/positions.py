"""The class token and the positions of a ViT: fixed ones, other grids, and forms that only some spellings have.

Functions that take arrays take those of a ViT without its children's.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from common.models.family import Arrays, Config, Say, Shapes, Undecided
from common.models.resizing import Matrices, cubic, kernel_matrices, position_matrices, resized

Pair = tuple[int, int]


def of_dinov2(old: Pair, new: Pair) -> Matrices:
    """`interpolate_pos_encoding` of facebookresearch/dinov2's `vision_transformer.py`, of models without registers."""
    return tuple(cubic(was, becomes, antialias=False, offset=0.1) for was, becomes in zip(old, new))


def of_dinov2_registers(old: Pair, new: Pair) -> Matrices:
    """The same of models with registers; timm's `resample_abs_pos_embed` of all models."""
    return tuple(cubic(was, becomes, antialias=True) for was, becomes in zip(old, new))


WAYS = {  # field `position_resize` of a ViT -> (in words, matrices for the two axes; None: `resize_positions`)
    "corners": ("bilinear, corners aligned", None),
    "dinov2": ("bicubic, as DINOv2 does", of_dinov2),
    "dinov2_registers": ("bicubic, antialiased", of_dinov2_registers),
}


def sincos2d(rows: int, columns: int, width: int) -> np.ndarray:
    """float64 [1, rows * columns, width] fixed positions: sine and cosine of the column, then of the row.

    Source: https://arxiv.org/abs/2104.02057 as in `posemb_sincos_2d` of big_vision's models/vit.py.
    """
    row, column = (index.reshape(-1, 1) for index in np.mgrid[:rows, :columns])
    frequency = 1e-4 ** (np.arange(width // 4) / (width // 4 - 1))
    waves = [wave(index * frequency) for index in (column, row) for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1)[None]


def rotary(rows: int, columns: int, width: int, base: float = 100.0) -> np.ndarray:
    """float64 [2, rows * columns, width]: cosine and sine by which the queries and keys of a head of this width turn.

    Coordinates are those of the centres of the patches, from -1 to 1 of each side. The channels of the two halves of a
    head form pairs. Source: `DINOv3ViTRopePositionEmbedding` of huggingface/transformers, in float64; the original has
    rounded its frequencies to bfloat16.
    """
    places = np.mgrid[:rows, :columns].reshape(2, -1).T + 0.5  # [L, 2]
    places = 2 * places / (rows, columns) - 1
    angles = 2 * np.pi * places[:, :, None] / base ** np.arange(0, 1, 4 / width)  # [L, 2, width / 4]
    angles = np.tile(angles.reshape(rows * columns, -1), 2)
    return np.stack([np.cos(angles), np.sin(angles)])


def resize_positions(positions: np.ndarray, grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    """`pos_embedding` [1, L, D] of one grid of patches for another: bilinear, with aligned corners.

    A row for the class token stays as it is. The originals call `scipy.ndimage.zoom(order=1)`, which is the same.
    """
    num_patches = grid[0] * grid[1]
    values = positions[0, -num_patches:].astype(np.float64).reshape(*grid, -1)
    for axis, (old, new) in enumerate(zip(grid, new_grid)):
        places = np.linspace(0, old - 1, new)
        below = places.astype(int)
        weight = (places - below).reshape(-1, *[1] * (2 - axis))
        above = values.take(np.minimum(below + 1, old - 1), axis)
        values = (1 - weight) * values.take(below, axis) + weight * above
    rows = values.reshape(new_grid[0] * new_grid[1], -1).astype(positions.dtype)
    return np.concatenate([positions[0, :-num_patches], rows])[None]


def infer_depth(shapes: Shapes) -> int:
    """Number of blocks of a transformer or Mixer."""
    depth = 0
    while f"blocks/{depth}/norm1/scale" in shapes:
        depth += 1
    return depth


def infer_grid(
    count: int, prefix: tuple[int, int], patch_size: Pair, stride: int, image_size: Pair | None
) -> dict[str, Any]:
    """{"image_size": in pixels, "cls_position": ..., "register_positions": ...} of `count` positions.

    `prefix` are the numbers of class tokens and of registers, of which both, the former or none may have positions.
    """
    tokens, registers = prefix
    ways = ((True, bool(registers)), (True, False), *(((False, False),) if tokens else ()))
    choices = [
        (count - tokens * cls - registers * reg, {"cls_position": cls, "register_positions": reg}) for cls, reg in ways
    ]
    if image_size is None:
        for patches, positioned in choices:
            if patches > 0 and math.isqrt(patches) ** 2 == patches:
                return {"image_size": tuple(math.isqrt(patches) * stride * patch for patch in patch_size)} | positioned
        raise Undecided(f"has {count} positions, which form no square; give --image_size HEIGHTxWIDTH in pixels.")
    rows, columns = (-(-size // stride) // patch for size, patch in zip(image_size, patch_size))
    for patches, positioned in choices:
        if rows * columns == patches:
            return {"image_size": tuple(image_size)} | positioned
    size = " x ".join(map(str, image_size))
    raise Undecided(
        f"has {count} positions, and images of {size} pixels have {rows} x {columns} patches; give another --image_size."
    )


# --- values for a model with other positions


def adapt(arrays: Arrays, config: Config, wanted: Config, say: Say) -> Arrays:
    """With or without a class token and its position; kernel and positions for patches of other sizes and numbers."""
    arrays = adapt_biases(arrays, config, wanted, say)
    arrays = adapt_kernel(adapt_tokens(arrays, config, wanted, say), config, wanted, say)
    return adapt_positions(arrays, config, wanted, say)


def adapt_biases(arrays: Arrays, config: Config, wanted: Config, say: Say) -> Arrays:
    """Biases of zeros in the layers of attention that have none in a file."""
    absent = [part for part in wanted.attn_biases if part not in config.attn_biases]
    if not absent:
        return arrays
    say(f"The layers {', '.join(absent)} of attention have no bias in the file: it starts at zero.")
    names = [f"blocks/{i}/attn/{part}" for i in range(wanted.depth) for part in absent]
    return arrays | {f"{name}/bias": np.zeros_like(arrays[f"{name}/kernel"][0]) for name in names}


def adapt_kernel(arrays: Arrays, config: Config, wanted: Config, say: Say) -> Arrays:
    """A kernel for patches of another size, by the pseudo-inverse of resizing (common/models/resizing.py)."""
    old, new = config.stored_kernel, wanted.stored_kernel
    if old == new:
        return arrays
    say(f"The kernel is resized from {in_words(old)} to {in_words(new)} pixels (pseudo-inverse of bilinear).")
    return arrays | {"stem/kernel": resized(arrays["stem/kernel"], kernel_matrices(old, new))}


def adapt_tokens(arrays: Arrays, config: Config, wanted: Config, say: Say) -> Arrays:
    """With or without a class token, and with or without its position and those of registers."""
    arrays, had, has = dict(arrays), *(one.has_cls for one in (config, wanted))
    if has and not had:
        say("The weights have no class token: it starts at zero.")
        stem = arrays["stem/kernel"]
        arrays["cls"] = np.zeros((1, 1, stem.shape[-1]), stem.dtype)
    if "pos_embedding" in arrays and wanted.positions == "learned":
        if had and has and config.cls_position and not wanted.cls_position:
            say("The position of the class token is added to it: the model has positions for its patches only.")
        if config.register_positions and not wanted.register_positions:
            say("The positions of the registers are added to them: the model has none for them.")
        arrays = repositioned(arrays, config, wanted)
    if had and not has:
        say("The class token is dropped: the model pools its patches.")
        arrays.pop("cls")
    return arrays


def prefix_tokens(config: Config) -> list[tuple[str, int, bool]]:
    """(name, number, whether they have positions) of the tokens before those of the patches."""
    learned = config.positions == "learned"
    tokens = [("cls", 1, learned and config.cls_position)] * config.has_cls
    tokens += [("dist", 1, learned and config.cls_position)] * config.distilled
    return tokens + [("registers", config.registers, learned and config.register_positions)] * bool(config.registers)


def split_positions(positions: np.ndarray, config: Config) -> tuple[Arrays, np.ndarray]:
    """({token: its positions}, those of the patches) of `pos_embedding`."""
    first, start = {}, 0
    for name, count, positioned in prefix_tokens(config):
        if positioned:
            first[name], start = positions[:, start : start + count], start + count
    return first, positions[:, start:]


def repositioned(arrays: Arrays, config: Config, wanted: Config) -> Arrays:
    """`arrays` with learned positions for the tokens that have some in `wanted`: new ones are zeros, others are added."""
    arrays = dict(arrays)
    first, patches = split_positions(arrays["pos_embedding"], config)
    rows = []
    for name, count, positioned in prefix_tokens(wanted):
        if positioned:
            rows.append(first.get(name, np.zeros((1, count, patches.shape[-1]), patches.dtype)))
        elif name in first:
            arrays[name] = arrays[name] + first[name]
    return arrays | {"pos_embedding": np.concatenate([*rows, patches], 1)}


def adapt_positions(arrays: Arrays, config: Config, wanted: Config, say: Say) -> Arrays:
    """Learned positions for another grid of patches: a FlexiViT's as it resizes them itself, in float64 here.

    Others as the originals resize them: bilinear, corners aligned.
    """
    if wanted.positions != "learned" or "pos_embedding" not in arrays:
        return {name: array for name, array in arrays.items() if name != "pos_embedding"}
    old, new = config.stored_grid, wanted.stored_grid
    if old == new:
        return arrays
    own = wanted if config.position_resize == "corners" else config  # what the file says, or else the model's name
    way, matrices = ("linear, antialiased", position_matrices) if config.position_grid else WAYS[own.position_resize]
    say(f"Positions are resized from {in_words(old)} to {in_words(new)} patches ({way}).")
    if matrices is None:
        return arrays | {"pos_embedding": resize_positions(arrays["pos_embedding"], old, new)}
    return arrays | {"pos_embedding": regrid(arrays["pos_embedding"], old, new, matrices)}


def regrid(
    positions: np.ndarray, grid: Pair, new_grid: Pair, matrices: Callable[[Pair, Pair], Matrices] = position_matrices
) -> np.ndarray:
    """`resize_positions` as a FlexiViT does, or with other matrices."""
    first, rows = np.split(positions, [positions.shape[1] - grid[0] * grid[1]], axis=1)
    new = resized(rows.reshape(*grid, -1), matrices(grid, new_grid))
    return np.concatenate([first, new.reshape(1, -1, positions.shape[-1])], axis=1)


def in_words(size: Pair) -> str:
    """`16 x 16`."""
    return " x ".join(map(str, size))


# --- what leaves every logit the same: how a spelling that cannot hold all of a model stores it


def express_config(config: Config, holds: dict[str, tuple]) -> tuple[Config, list[str]]:
    """(the configuration in a spelling that `holds` these values of fields, what was changed).

    Sine and cosine positions are written out; a class token without a position gets one of zeros; or its position is
    added to it where the spelling adds positions to the patches only.
    """
    notes = []
    if config.positions == "sincos2d" and "sincos2d" not in holds.get("positions", ("sincos2d",)):
        config = dataclasses.replace(config, positions="learned", cls_position=False, register_positions=False)
        notes.append("sine and cosine positions are written out")
    allowed = holds.get("cls_position", (config.cls_position,))
    if config.has_cls and config.cls_position not in allowed:
        notes.append(
            "the position of the class token is added to it, which cannot be undone"
            if config.cls_position
            else "the class token gets a position of zeros"
        )
        config = dataclasses.replace(config, cls_position=not config.cls_position)
    if config.register_positions not in holds.get("register_positions", (config.register_positions,)):
        notes.append("the positions of the registers are added to them, which cannot be undone")
        config = dataclasses.replace(config, register_positions=False)
    if config.mixed_positions not in holds.get("mixed_positions", (config.mixed_positions,)):
        notes.append("the positions of what is no patch are added to it, which cannot be undone")
        config = dataclasses.replace(config, cls_position=False, register_positions=False)
    return config, notes


def express(arrays: Arrays, config: Config, there: Config) -> Arrays:
    """`arrays` of `config` as those of `there`, which `express_config` returned."""
    arrays = dict(arrays)
    if config.positions != there.positions:
        dtype = arrays["stem/kernel"].dtype
        arrays["pos_embedding"] = sincos2d(*config.grid, config.width).astype(dtype)
        config = dataclasses.replace(config, positions="learned", cls_position=False, register_positions=False)
    if prefix_tokens(config) != prefix_tokens(there):
        arrays = repositioned(arrays, config, there)
    return {name: arrays[name] for name in there.own_shapes()}


def restore(arrays: Arrays, there: Config, config: Config) -> tuple[Arrays, Config]:
    """The inverse of `express`: (arrays, configuration), which stay those of `there` where the arrays have moved on."""
    shapes, positions = config.own_shapes(), arrays.get("pos_embedding")
    back = dict(arrays)
    if "pos_embedding" in back and prefix_tokens(config) != prefix_tokens(there):
        first, patches = split_positions(positions, there)
        wanted = [name for name, _, positioned in prefix_tokens(config) if positioned]
        added = [rows for name, rows in first.items() if name not in wanted]
        if any(rows.any() or np.signbit(rows).any() for rows in added) or any(name not in first for name in wanted):
            return arrays, there
        back["pos_embedding"] = positions = np.concatenate([*(first[name] for name in wanted), patches], 1)
    if config.positions == "sincos2d" and there.positions == "learned":
        if positions.shape != (1, config.grid[0] * config.grid[1], config.width):
            return arrays, there
        if positions.tobytes() != sincos2d(*config.grid, config.width).astype(positions.dtype).tobytes():
            return arrays, there
        del back["pos_embedding"]
    if not config.cls_position and not there.has_cls:
        return back, config
    if back.keys() != shapes.keys() or any(back[name].shape != shape for name, shape in shapes.items()):
        return arrays, there
    return {name: back[name] for name in shapes}, config
