"""Train or fine-tune a published model, in PyTorch."""

from common.config import TrainConfig, run_command


def load_main():
    from bit_pytorch.loop import main

    return main


if __name__ == "__main__":
    run_command("bit_pytorch", "train", TrainConfig, __doc__, load_main)
