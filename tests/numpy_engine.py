"""A fourth engine, of a few lines of numpy, that runs the very `main` of the others: for tests of what surrounds it."""

import ast
import functools
import types
from pathlib import Path

import numpy as np

from common.config import TrainConfig
from common.runs.command import run_command
from common.runs.run import Run
from common.system.processes import Devices
from common.weights import below

LOOP = Path(__file__).resolve().parent.parent / "bit_jax" / "loop.py"


class Model:
    """Parameters."""

    def __init__(self, arrays):
        self.arrays = {name: arrays[name].astype(np.float64) for name in sorted(arrays)}


def train_step(models, optimizer, batch, recipe, *, step):
    """Something that depends on every image, label, parameter, momentum and rate."""
    model = models["model"]
    signal = np.sin(batch["images"].sum(dtype=np.float64) + batch["labels"].dot(np.arange(len(batch["labels"]))))
    with np.errstate(over="ignore"):  # of a rate that is much too high
        loss = signal**2 + sum(np.exp(np.abs(array).mean()) for array in model.arrays.values())
    for name, array in model.arrays.items():
        optimizer[name] = 0.9 * optimizer.get(name, 0) + np.cos(array + signal)
        model.arrays[name] = array - recipe.lrs[step] * optimizer[name]
    return {"loss": loss}


def evaluate(models, evaluator, task):
    """A number in [0, 1) that goes up and down from one evaluation to the next; every image is taken for class 1."""
    for output, batches in evaluator.passes():
        batches = list(batches)
        count = sum(len(batch["mask"]) for batch in batches)
        pixels = sum(batch["images"][batch["mask"]].sum(dtype=np.float64) for batch in batches)
        top1 = (1000 * sum(array.sum() for array in models["model"].arrays.values()) + pixels) % 1
        columns = {"top1": np.full(count, top1), "top5": np.ones(count), "loss": np.full(count, 1 - top1)}
        columns |= {"predicted": np.ones(count, np.int32), "probability": np.linspace(0, 1, count)}
        evaluator.add(output, columns | {"mask": np.ones(count, bool)})
    return evaluator.result()


def load(model, arrays):
    model.arrays = Model(arrays).arrays


def load_main():
    """`main` of bit_jax/loop.py, whose text is that of all engines, with the names in it meaning what stands here."""
    tree = ast.parse(LOOP.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    tree.body[0].args.args[0].annotation = None
    copy = lambda arrays: {name: array.copy() for name, array in arrays.items()}
    names = {
        "api": types.SimpleNamespace(build=lambda config, arrays, **options: Model(arrays)),
        "optim": types.SimpleNamespace(create_optimizer=lambda model, recipe: {}, swap_average=lambda optimizer: None),
        "weights": types.SimpleNamespace(
            load=load,
            load_optimizer=lambda model, optimizer, arrays: optimizer.update(below(arrays, "first")),
            dump=lambda model: copy(model.arrays),
            dump_optimizer=lambda model, optimizer: {f"first/{name}": value for name, value in copy(optimizer).items()},
        ),
        "Devices": lambda shard_parameters: Devices(),
        "to_device": lambda batches, devices: batches,
        "train_step": train_step,
        "evaluate": evaluate,
    }
    exec(compile(tree, str(LOOP), "exec"), names)  # noqa: S102
    return names["main"]


if __name__ == "__main__":
    run_command("numpy", "train", TrainConfig, __doc__, functools.partial(Run.of_command, engine="numpy"), load_main)
