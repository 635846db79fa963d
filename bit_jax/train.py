"""Train or fine-tune a published model, in JAX."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import functools

from common.config import TrainConfig
from common.runs.command import run_command
from common.runs.run import Run


def load_main():
    """The function that `train` calls with its checked flags; imports the framework."""
    from bit_jax.compiled import keep_compiled
    from bit_jax.loop import main

    keep_compiled()
    return main


if __name__ == "__main__":
    run_command(
        "bit_jax", "train", TrainConfig, __doc__, functools.partial(Run.of_command, engine="bit_jax"), load_main
    )
