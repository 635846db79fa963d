"""Updates of a tiny model of maps on one or several devices: `train_maps ENGINE COUNT FILE.npz NUMBERS`.

NUMBERS is JSON: `shards`, whether parameters are spread over the devices, and what the recipe has besides.
"""

import json
import sys
from pathlib import Path

import numpy as np
from engines import Engine, recipe_of
from pairs import SEVERAL
from tiny_models import MAP_MODELS, random_arrays
from train_pairs import Seen

from common.models import VqVaeConfig
from common.recipes.task import Dense

STEPS = 3


def arrays_of(config: VqVaeConfig) -> dict[str, np.ndarray]:
    """Parameters with a codebook of which words die at the first, the second and the third update."""
    arrays = random_arrays(config)
    if config.renews:
        arrays["codebook/counts"] = np.array([0.1001, 0.1004, 0.1008, *[3] * (config.vocabulary - 3)], "f4")
    return arrays


def batches(rows: int, first: int, last: int, config: VqVaeConfig) -> list[dict[str, np.ndarray]]:
    """Batches of `rows` images with their maps, of which one process has those from `first` to `last`."""
    rng, found = np.random.default_rng(0), []
    for step in range(STEPS):
        whole = {"images": rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)}
        depths = rng.uniform(-1, 11, (rows, 32, 32, 1)).astype("f4")
        whole["maps"] = depths if config.target == "depth" else rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)
        whole["kept_codes"] = rng.random((rows, config.num_codes)) < 0.7
        own = {name: values[first:last] for name, values in whole.items()}
        found.append(own | {"renewal_seed": np.int32(5 + step)})
    return found


def train(engine: Engine, devices, kind: str = "vqvae", precision: str = "float64", **numbers) -> dict[str, np.ndarray]:
    """{what was measured: [STEPS], "map": what is predicted, canonical name: trained array} of updates by 8 images."""
    config = MAP_MODELS[kind]
    recipe = recipe_of(
        (0.01,) * STEPS, clip=1.0, weight_decay=0.1, decay="decoupled", ema=0.5, base_lr=0.01, task=Dense(config.target),
        **{"optimizer": "adam"} | numbers,
    )  # fmt: skip
    model = engine.build(config, arrays_of(config), precision, devices=devices, groups=recipe.groups)
    optimizer, measured = engine.optim.create_optimizer(model, recipe), []
    own = 8 // devices.num_processes
    shares = batches(8, own * devices.process, own * (devices.process + 1), config)
    for step, batch in enumerate(engine.devices.to_device(iter(shares), devices)):
        found = engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)
        measured.append([float(found[name]) for name in recipe.measures])
    engine.optim.swap_average(optimizer)
    shown = [{name: batch[name] for name in ("images", "maps")} | {"mask": np.ones(own, bool)} for batch in shares]
    engine.loop.evaluate({"model": model}, seen := Maps(shown), recipe.task)
    state = engine.weights.dump_optimizer(model, optimizer)
    arrays = engine.weights.dump(model) | {f"state {name}": value for name, value in state.items()}
    return dict(zip(recipe.measures, np.transpose(measured))) | seen.found | arrays


class Maps(Seen):
    """An evaluator that keeps the maps of some batches."""

    def passes(self):
        yield "maps", iter(self.batches)


def main(name: str, count: int, path: Path, shards: bool = False, **numbers) -> None:
    with SEVERAL[name](count, shards) as devices:
        found = train(Engine(name), devices, **numbers)
        if devices.process == 0:
            np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))
