"""Whole commands: the time to the first step, and the part of a step that waits for data."""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.batches import TrainBatches, prefetch
from common.datasets import open_dataset
from common.models import find_model
from common.models.initial import initial_parameters
from scripts.benchmarks.measure import Work, import_engine, measure, show
from scripts.benchmarks.steps import CLASSES


def startup_section(args: argparse.Namespace) -> None:
    """From a command to the first line of metrics and to the answer for one photo, on the embedded default; in JAX also
    without kept programs. Seconds of the wall, or with --cpu of all threads, which say more on a busy machine.
    """
    unit = "CPU s" if args.cpu else "s"
    for title, command in {"the end of the first step": first_step, "the classes of one photo": one_answer}.items():
        rows = {engine: (starting, command, engine, args.cpu) for engine in args.engines}
        if "bit_jax" in args.engines:
            rows["bit_jax, nothing kept"] = (starting, command, "bit_jax", args.cpu, True)
        show(f"From the command to {title}, embedded default", measure(rows, args.repeats), unit)


def starting(command: Callable, engine: str, cpu: bool, without_programs: bool = False) -> Work:
    """Seconds of a command of an engine in a fresh process and folder."""

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | ({"XDG_CACHE_HOME": folder} if without_programs else {})
            environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as users run it: the warm-up leaves byte-code
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = command(engine, Path(folder), environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime if cpu else seconds

    return work


def first_step(engine: str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds until `train` has written its first line of metrics; it is ended there."""
    flags = ["--logdir", folder, "--name", "run", "--log_every", "1", "--steps", "50"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"{engine}.train", *flags], stdout=subprocess.DEVNULL, env=environment
    )
    metrics = folder / "run" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    process.kill()
    process.wait()
    return seconds


def one_answer(engine: str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds that `predict` takes for a photo of 640 x 480 pixels."""
    photo = folder / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"{engine}.predict", photo], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    return time.perf_counter() - started


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
