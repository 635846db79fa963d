"""Train or fine-tune a published model, in JAX."""

from common.config import TrainConfig, run_command


def load_main():
    from bit_jax.loop import main

    return main


if __name__ == "__main__":
    run_command("bit_jax", "train", TrainConfig, __doc__, load_main)
