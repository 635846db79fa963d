"""Predict the classes of images, or compare images with texts, in TensorFlow."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

from bit_tf2 import UNUSED, import_tensorflow
from common.config import PredictConfig
from common.runs.command import run_command
from common.runs.jobs import prediction


def load_main():
    """The function that `predict` calls with its checked flags; imports the framework."""
    import_tensorflow(without=UNUSED)
    from bit_tf2.inference import predict_main

    return predict_main


if __name__ == "__main__":
    run_command("bit_tf2", "predict", PredictConfig, __doc__, prediction, load_main)
