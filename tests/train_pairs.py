"""Three updates of a tiny image-text model on one or several devices: `train_pairs ENGINE COUNT FILE.npz NUMBERS`.

NUMBERS is JSON: `shards`, whether parameters are spread over the devices, and what the recipe has besides.
"""

import json
import sys
from pathlib import Path

import numpy as np
from engines import Engine, recipe_of
from pairs import SEVERAL
from tiny_models import TEXTS, random_arrays

from common.recipes.groups import Group, create_groups
from common.recipes.task import Contrastive

CONFIG = TEXTS["siglip"]


def batches(rows: int, first: int, last: int) -> list[dict[str, np.ndarray]]:
    """Three batches of `rows` pairs, of which one process has those from `first` to `last`."""
    rng = np.random.default_rng(0)
    whole = [
        {
            "images": rng.integers(0, 256, (rows, 32, 32, 3), np.uint8),
            "tokens": rng.integers(1, 11, (rows, 7), np.int32),
        }
        for _ in range(3)
    ]
    return [{name: values[first:last] for name, values in batch.items()} for batch in whole]


class Seen:
    """An evaluator that keeps what the model makes of some batches."""

    def __init__(self, batches: list[dict[str, np.ndarray]]):
        self.batches, self.found = batches, {}

    def passes(self):
        return (("image_embeddings", iter(self.batches)), ("text_embeddings", iter(self.batches)))

    def add(self, output: str, rows: dict[str, np.ndarray]) -> None:
        self.found |= {f"{output} {name}": value for name, value in rows.items() if name != "mask"}

    def result(self) -> dict[str, float]:
        return {}


def train(
    engine: Engine, devices, loss: str = "sigmoid", chunk: int = 0, locked: str = "", **numbers
) -> dict[str, np.ndarray]:
    """{"losses": [3], canonical name: trained array} of 8 pairs per update; in every process but the first perhaps empty."""
    numbers = {"optimizer": "adam", "groups": (*create_groups(), Group(locked, trained=False))} | numbers
    recipe = recipe_of(
        (0.01,) * 3, clip=1.0, weight_decay=0.1, decay="decoupled", ema=0.5, base_lr=0.01,
        task=Contrastive(loss, chunk), **numbers,
    )  # fmt: skip
    model = engine.build(CONFIG, random_arrays(CONFIG), "float64", devices=devices, groups=recipe.groups)
    optimizer, losses = engine.optim.create_optimizer(model, recipe), []
    own = 8 // devices.num_processes
    shares = batches(8, own * devices.process, own * (devices.process + 1))
    for step, batch in enumerate(engine.devices.to_device(iter(shares), devices)):
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
    engine.optim.swap_average(optimizer)
    seen = Seen([batch | {"mask": np.ones(own, bool)} for batch in shares])
    engine.loop.evaluate({"model": model}, seen, recipe.task)
    state = engine.weights.dump_optimizer(model, optimizer)
    return (
        {"losses": np.array(losses)}
        | seen.found
        | engine.weights.dump(model)
        | {f"state {n}": v for n, v in state.items()}
    )


def main(name: str, count: int, path: Path, shards: bool = False, **numbers) -> None:
    with SEVERAL[name](count, shards) as devices:
        found = train(Engine(name), devices, **numbers)
        if devices.process == 0:
            np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))
