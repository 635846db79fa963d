"""Models with LoRA's matrices, and without (common/recipes/lora.py)."""

import dataclasses
from typing import Any

from common.models.family import Arrays
from common.recipes.lora import A, B, Lora, dense_kernels
from common.system.errors import UserError


def with_lora(config: Any, lora: Lora, model: str) -> Any:
    """`config` with adapted kernels. Raises UserError where the model called so has no such kernels, or too small ones."""
    if not any(field.name == "lora" for field in dataclasses.fields(config)):
        raise UserError(
            f"--lora_rank {lora.rank} adapts the dense kernels of ViTs, Mixers, image-text models and models that write, and "
            f"{model} is none; leave it out."
        )
    shapes = config.parameter_shapes()
    found = lora.kernels(shapes)
    if not found:
        raise UserError(
            f"--lora_targets {lora.targets} fits no dense kernel of {model}, such as {next(iter(dense_kernels(shapes)), None)}; "
            "correct the pattern."
        )
    least = min(found, key=lambda name: min(shapes[name]))
    if lora.rank > min(shapes[least]):
        raise UserError(
            f"--lora_rank {lora.rank} is above {min(shapes[least])}, the smaller side of {least} {list(shapes[least])}; "
            "give at most as much."
        )
    return dataclasses.replace(config, lora=lora)


def merged(arrays: Arrays, lora: Lora) -> Arrays:
    """A model's arrays without the matrices, whose products are added to the kernels, in the kernels' type."""
    found = {name: array for name, array in arrays.items() if not name.endswith((f"/{A}", f"/{B}"))}
    for name in [name for name in arrays if name.endswith(f"/{A}")]:
        layer = name.removesuffix(A)
        a, b, kernel = arrays[name], arrays[f"{layer}{B}"], arrays[f"{layer}kernel"]
        product = a.astype(float) @ b.astype(float)
        found[f"{layer}kernel"] = (kernel + lora.scale * product).astype(kernel.dtype)
    return found


def layer_of(model: Any, name: str) -> Any:
    """The layer of an engine's model which has the parameter of this canonical name."""
    for part in name.split("/")[:-1]:
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model
