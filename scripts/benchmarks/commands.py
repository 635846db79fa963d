"""Whole commands: the time to the first step, and the part of a step that waits for data."""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.data.batches import TrainBatches, prefetch
from common.datasets import open_dataset
from common.models import find_model
from common.models.initial import initial_parameters
from scripts.benchmarks.measure import Work, import_engine, measure, show
from scripts.benchmarks.steps import CLASSES


def startup_section(args: argparse.Namespace) -> None:
    """Seconds from the command to the first line of metrics, on the embedded default; in JAX also without kept programs."""
    rows = {engine: (starting, engine) for engine in args.engines}
    rows |= {"bit_jax, nothing kept": (starting, "bit_jax", True)} if "bit_jax" in args.engines else {}
    show("From the command to the end of the first step, embedded default", measure(rows, args.repeats), "s")


def starting(engine: str, without_programs: bool = False) -> Work:
    """Seconds until a fresh process has written its first line of metrics."""

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | ({"XDG_CACHE_HOME": folder} if without_programs else {})
            environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as users run it: the warm-up leaves byte-code
            flags = ["--logdir", folder, "--name", "run", "--log_every", "1", "--steps", "50"]
            command = [sys.executable, "-m", f"{engine}.train", *flags]
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
            metrics = Path(folder) / "run" / "metrics.jsonl"
            while not metrics.exists() and process.poll() is None:
                time.sleep(0.01)
            seconds = time.perf_counter() - started
            process.kill()
            process.wait()
            return seconds

    return work


def overlap_section(args: argparse.Namespace) -> None:
    """How long a step waits for its data while the model trains, and how much of the step that is."""
    rows = {engine: (waiting, args, engine) for engine in args.engines}
    show("Share of a training step spent waiting for data, embedded default", measure(rows, 3), "")


def waiting(args: argparse.Namespace, engine: str) -> Work:
    """Part of the time of 20 steps on real images that passes in `next(batches)`."""
    from common.config import TrainConfig
    from common.recipes.create import create_recipe

    api, _, loop, optim = import_engine(engine)
    dataset = open_dataset("cifar10-sample")
    split = dataset.splits["train"]
    recipe = create_recipe(TrainConfig(), len(split), dataset.image_size, dataset.recipe)
    config = find_model(TrainConfig.model).config(CLASSES)
    model = api.build(config, initial_parameters(0, config))
    optimizer = optim.create_optimizer(model, recipe)

    def work() -> float:
        batches = loop.to_device(prefetch(TrainBatches(split, recipe, 0), range(20), os.cpu_count()), model.devices)
        started, waited = time.perf_counter(), 0.0
        for step in itertools.count():
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                return waited / (time.perf_counter() - started)
            float(loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"])

    return work
