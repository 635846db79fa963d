"""Train or fine-tune a published model, in TensorFlow."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import functools

from bit_tf2 import UNUSED, import_tensorflow
from common.config import TrainConfig
from common.runs.command import run_command
from common.runs.run import Run


def load_main():
    """The function that `train` calls with its checked flags; imports the framework."""
    import_tensorflow(without=UNUSED)
    from bit_tf2.loop import main

    return main


if __name__ == "__main__":
    run_command(
        "bit_tf2", "train", TrainConfig, __doc__, functools.partial(Run.of_command, engine="bit_tf2"), load_main
    )
