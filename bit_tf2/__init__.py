"""Native TensorFlow 2 models (Keras 3): `create_model`, `list_models`, `preprocess` and more: docs/python.md."""

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator

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

# What TensorFlow and Keras import where it is installed, for almost as long as themselves; our commands use none of it.
UNUSED = ("IPython", "jax", "matplotlib", "pandas", "scipy", "sklearn")

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


def import_tensorflow(without: tuple[str, ...] = ()) -> None:
    """Import it, and let it look for GPUs, without the lines that its C++ side prints whatever its log level is.

    They are shown when the import fails. See https://github.com/tensorflow/tensorflow/issues/62770. `without` names packages
    that it does not find, for processes that only run a command: Keras's wrappers for them would not work.
    """
    if "tensorflow" in sys.modules:
        return
    with tempfile.TemporaryFile() as lines, hidden(without):
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


@contextlib.contextmanager
def hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Within it, packages that were not imported before count as not installed."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def __dir__() -> list[str]:  # what `help` and completion show
    return [*globals(), *__all__]
