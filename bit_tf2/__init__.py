"""Native TensorFlow 2 models (Keras 3): `create_model`, `list_models`, `preprocess` and more: docs/python.md."""

import importlib
import os
import sys
import tempfile

from bit_tf2.conflict import check_common

check_common()  # before the first import of it
from common.system.errors import UserError

__all__ = [
    "create_model",
    "decode_predictions",
    "list_models",
    "load_weights",
    "preprocess",
    "save_weights",
    "tokenize",
]

if "keras" in sys.modules and sys.modules["keras"].config.backend() != "tensorflow":
    raise UserError(
        f"Keras already runs on {sys.modules['keras'].config.backend()} in this process and bit_tf2 needs tensorflow; "
        "import bit_tf2 before keras, or set KERAS_BACKEND=tensorflow."
    )
os.environ["KERAS_BACKEND"] = "tensorflow"  # read once, when keras is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the C++ side logs errors only


def __getattr__(name: str):  # tensorflow takes seconds to import: only when something is used
    if name in __all__:
        import_tensorflow()
        return getattr(importlib.import_module("bit_tf2.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def import_tensorflow() -> None:
    """Import it, and let it look for GPUs, without the lines that its C++ side prints whatever its log level is.

    They are shown when the import fails. See https://github.com/tensorflow/tensorflow/issues/62770.
    """
    if "tensorflow" in sys.modules:
        return
    with tempfile.TemporaryFile() as lines:
        stderr = os.dup(2)
        os.dup2(lines.fileno(), 2)
        try:
            importlib.import_module("tensorflow").config.list_physical_devices()
        except Exception:
            lines.seek(0)
            os.write(stderr, lines.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def __dir__() -> list[str]:  # what `help` and completion show
    return [*globals(), *__all__]
