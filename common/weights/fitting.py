"""Whether arrays, and what users make of models, are those of a configuration."""

import operator
from pathlib import Path
from typing import NoReturn

from common.models import ModelConfig, has_classes
from common.models.family import Arrays, Shapes
from common.system.errors import UserError
from common.weights.recognise import differences


def check_shapes(arrays: Arrays, expected: dict[str, tuple[int, ...]], where: str | Path) -> None:
    """Raise UserError that lists missing, unexpected and misshapen tensors."""
    listed = differences({name: array.shape for name, array in arrays.items()}, expected, same=operator.eq)
    if listed:
        raise UserError(f"{where} does not fit the model ({listed}); choose the --model that the file was made for.")


def fitted_config(config: ModelConfig, shapes: Shapes) -> ModelConfig:
    """`config` with as many classes as the head has of a model with these shapes: its user may have replaced it.

    Raises UserError where anything else of the model is not as `config` says.
    """
    head = shapes.get("head/kernel") or shapes.get("head/bias") or (None,)
    fitted = config.with_classes(head[-1]) if has_classes(config) else config  # whose head, if any, is of tokens
    listed = differences(shapes, fitted.parameter_shapes(), same=operator.eq)
    if listed:
        raise UserError(
            f"The model's parameters are not those of its configuration ({listed}); a file holds nothing but these, and a "
            "dense layer with a bias for any number of classes as `head`: put back what was replaced, merge what was added."
        )
    return fitted


def refuse_unbuilt(kind: str) -> NoReturn:
    """Raise UserError for a layer of a `kind` that gets its parameters when it first sees something."""
    raise UserError(
        f"A {kind} of the model has no values yet; call the model on images once before you save or load it."
    )


def refuse_wrapper(kind: str, found: object) -> NoReturn:
    """Raise UserError for what an engine was given, of a `kind`, as a model: it holds others' parameters, or no model."""
    what = (
        f"holds more parameters than the {type(found).__name__} within it" if found else "is no model of this project"
    )
    raise UserError(
        f"A {kind} {what}; give what `create_model` returned (of JAX's state, `nnx.merge(graphdef, state)`)."
    )
