"""Measure accuracy and loss of a model on splits of a dataset, in JAX."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

from common.config import EvaluateConfig
from common.runs.command import run_command
from common.runs.jobs import evaluation


def load_main():
    """The function that `evaluate` calls with its checked flags; imports the framework."""
    from bit_jax.compiled import keep_compiled
    from bit_jax.inference import evaluate_main

    keep_compiled()
    return evaluate_main


if __name__ == "__main__":
    run_command("bit_jax", "evaluate", EvaluateConfig, __doc__, evaluation, load_main)
