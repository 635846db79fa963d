"""Train or fine-tune a published model, in PyTorch."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import functools

from bit_pytorch.datasets import open_torchvision
from common.config import TrainConfig
from common.runs.command import run_command
from common.runs.run import Run


def load_main():
    """The function that `train` calls with its checked flags; imports the framework."""
    from bit_pytorch.loop import main

    return main


if __name__ == "__main__":
    prepare = functools.partial(Run.of_command, engine="bit_pytorch", open_torchvision=open_torchvision)
    run_command("bit_pytorch", "train", TrainConfig, __doc__, prepare, load_main)
