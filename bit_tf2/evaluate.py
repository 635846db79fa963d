"""Measure accuracy and loss of a model on splits of a dataset, in TensorFlow."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

from bit_tf2 import UNUSED, import_tensorflow
from common.config import EvaluateConfig
from common.runs.command import run_command
from common.runs.jobs import evaluation


def load_main():
    """The function that `evaluate` calls with its checked flags; imports the framework."""
    import_tensorflow(without=UNUSED)
    from bit_tf2.inference import evaluate_main

    return evaluate_main


if __name__ == "__main__":
    run_command("bit_tf2", "evaluate", EvaluateConfig, __doc__, evaluation, load_main)
