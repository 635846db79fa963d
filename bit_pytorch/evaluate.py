"""Measure accuracy and loss of a model on splits of a dataset, in PyTorch."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import functools

from bit_pytorch.datasets import open_torchvision
from common.config import EvaluateConfig
from common.runs.command import run_command
from common.runs.jobs import evaluation


def load_main():
    """The function that `evaluate` calls with its checked flags; imports the framework."""
    from bit_pytorch.inference import evaluate_main

    return evaluate_main


if __name__ == "__main__":
    prepare = functools.partial(evaluation, open_torchvision=open_torchvision)
    run_command("bit_pytorch", "evaluate", EvaluateConfig, __doc__, prepare, load_main)
