"""Native JAX models (flax NNX): `create_model`, `list_models`, `preprocess` and more: docs/python.md."""

import importlib

from bit_jax.conflict import check_common

__all__ = [
    "create_model",
    "decode_predictions",
    "list_models",
    "load_weights",
    "preprocess",
    "save_weights",
    "tokenize",
]

check_common()


def __getattr__(name: str):  # jax takes seconds to import: only when something is used
    if name in __all__:
        return getattr(importlib.import_module("bit_jax.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:  # what `help` and completion show
    return [*globals(), *__all__]
