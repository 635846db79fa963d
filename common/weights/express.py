"""What a model becomes in a spelling that cannot say all of it, and how it comes back without losing a bit.

Only what leaves every logit the same is changed: sine and cosine positions are written out; a class token without a
position gets one of zeros; or its position is added to it where the spelling adds positions to the patches only.
"""

import dataclasses

import numpy as np

from common.models import ModelConfig, ViTConfig
from common.models.vit import sincos2d
from common.system.errors import UserError
from common.weights.recognise import backbone_kind, cannot_hold, family_name
from common.weights.table import Arrays, Table


def expressed(config: ModelConfig, table: Table) -> tuple[ModelConfig, list[str]]:
    """(the configuration that a table can hold, what was changed); UserError where the model would become another."""
    notes = []
    if isinstance(config, ViTConfig):
        if config.positions == "sincos2d" and "sincos2d" not in table.holds.get("positions", ("sincos2d",)):
            config = dataclasses.replace(config, positions="learned", cls_position=False)
            notes.append("sine and cosine positions are written out")
        allowed = table.holds.get("cls_position", (config.cls_position,))
        if config.pooling == "token" and config.cls_position not in allowed:
            notes.append(
                "the position of the class token is added to it, which cannot be undone"
                if config.cls_position
                else "the class token gets a position of zeros"
            )
            config = dataclasses.replace(config, cls_position=not config.cls_position)
    reason = cannot_hold(table, config)
    if reason:
        raise UserError(f"{table.spelling} cannot hold this {family_name(config)} ({reason}); choose another spelling.")
    return config, notes


def express(arrays: Arrays, config: ModelConfig, there: ModelConfig) -> Arrays:
    """`arrays` of `config` as those of `there`, which `expressed` returned."""
    if config == there or not isinstance(config, ViTConfig):
        return arrays
    arrays = dict(arrays)
    if config.positions != there.positions:
        dtype = arrays["stem/kernel"].dtype
        arrays["pos_embedding"] = sincos2d(*config.grid, config.width).astype(dtype)
        config = dataclasses.replace(config, positions="learned", cls_position=False)
    if config.pooling == "token" and config.cls_position != there.cls_position:
        positions = arrays["pos_embedding"]
        if there.cls_position:
            arrays["pos_embedding"] = np.concatenate([np.zeros_like(positions[:, :1]), positions], 1)
        else:
            arrays["cls"] = arrays["cls"] + positions[:, :1]
            arrays["pos_embedding"] = positions[:, 1:]
    return {name: arrays[name] for name in there.parameter_shapes()}


def restore(arrays: Arrays, there: ModelConfig, config: ModelConfig) -> tuple[Arrays, ModelConfig]:
    """The inverse of `express`: (arrays, configuration), which stay those of `there` where the arrays have moved on."""
    if config == there or not isinstance(config, ViTConfig):
        return arrays, config
    shapes, positions = config.parameter_shapes(), arrays.get("pos_embedding")
    back = dict(arrays)
    if there.pooling == "token" and there.cls_position and not config.cls_position:
        if positions[:, :1].any() or np.signbit(positions[:, :1]).any():
            return arrays, there
        back["pos_embedding"] = positions = positions[:, 1:]
    if config.positions == "sincos2d" and there.positions == "learned":
        if positions.shape != (1, config.grid[0] * config.grid[1], config.width):
            return arrays, there
        if positions.tobytes() != sincos2d(*config.grid, config.width).astype(positions.dtype).tobytes():
            return arrays, there
        del back["pos_embedding"]
    if not config.cls_position and there.pooling != "token":
        return back, config
    if back.keys() != shapes.keys() or any(back[name].shape != shape for name, shape in shapes.items()):
        return arrays, there
    return {name: back[name] for name in shapes}, config


def differing(config: ModelConfig, computes: dict) -> dict[str, tuple]:
    """{field: (the model's value, what a spelling's own code computes with)} where they differ."""
    found = {}
    for name, value in computes.items():
        if name == "backbone":
            if backbone_kind(config) != "none":
                found |= {f"backbone {key}": pair for key, pair in differing(config.backbone, value).items()}
        elif getattr(config, name) != value:
            found[name] = (getattr(config, name), value)
    return found
