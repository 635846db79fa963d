"""Predict the classes of images, or compare images with texts, in PyTorch."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

from common.config import PredictConfig
from common.runs.command import run_command
from common.runs.jobs import prediction


def load_main():
    """The function that `predict` calls with its checked flags; imports the framework."""
    from bit_pytorch.inference import predict_main

    return predict_main


if __name__ == "__main__":
    run_command("bit_pytorch", "predict", PredictConfig, __doc__, prediction, load_main)
