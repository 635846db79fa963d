"""What training takes of memory, with each flag that saves some; labels of many classes; predictions of a million files."""

import argparse
import contextlib
import dataclasses
import gc
import io
import os
import socket
import statistics
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.config import PredictConfig
from common.data.batches import EvalBatches
from common.data.columns import Column, labels
from common.data.split import MultiLabels, Split
from common.models.initial import initial_parameters
from common.runs.prediction import Prediction
from scripts.benchmarks.index import write_folder
from scripts.benchmarks.measure import (
    EXACT_MALLOC,
    Repeat,
    Work,
    cpu_seconds,
    import_engine,
    in_fresh_process,
    measure,
    peak_growth_bytes,
    resident_bytes,
    show,
)
from scripts.benchmarks.steps import RECIPE, model_config, training_batch

# Time does not matter here: threads that sleep while they wait are quickest beside other processes (docs/speed.md).
VARIABLES = EXACT_MALLOC | {"OMP_WAIT_POLICY": "PASSIVE"}


class Row(NamedTuple):
    """One way to train."""

    batch_split: int = 1
    remat: bool = False
    precision: str = "float32"
    processes: int = 1  # of PyTorch
    shard_parameters: bool = False


ALONE = {
    "plain": Row(), "--batch_split 8": Row(batch_split=8), "--remat": Row(remat=True),
    "--precision bfloat16": Row(precision="bfloat16"), "all three": Row(8, True, "bfloat16"),
}  # fmt: skip
PAIR = {
    "two processes": Row(processes=2),
    "two processes, --shard_parameters": Row(processes=2, shard_parameters=True),
}
# TensorFlow does not shard. JAX has two devices in one process, whose memory is that of both.
ROWS = {"bit_pytorch": ALONE | PAIR, "bit_tf2": ALONE, "bit_jax": ALONE}
TWO_OF_JAX = {"two devices": Row(), "two devices, --shard_parameters": Row(shard_parameters=True)}


class Peak(NamedTuple):
    """Bytes."""

    whole: float  # since the engine was imported: model, optimizer and two steps
    steps: float  # since model, optimizer and batch are there


def memory_section(args: argparse.Namespace) -> None:
    """For each engine a table of peaks: two steps of training in a process of its own for each row and repeat."""
    repeats = min(args.repeats, 3)
    for engine in args.engines:
        print(f"\nPeak memory of two steps, {engine}, {args.model}, {args.memory_batch} images of {args.resolution} px")
        print(f"  {'':<34} {'whole':>8}  ratio {'steps':>8}  ratio   MiB, medians of {repeats}", flush=True)
        show_peaks(args, engine, ROWS[engine], repeats)
        if engine == "bit_jax":
            two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
            show_peaks(args, engine, TWO_OF_JAX, repeats, two)


def show_peaks(
    args: argparse.Namespace, engine: str, rows: dict[str, Row], repeats: int, variables: dict[str, str] | None = None
) -> None:
    """Measure and print rows, with ratios to the first."""
    first = None
    for row, how in rows.items():
        found = Peak(*map(statistics.median, zip(*(peak(args, engine, how, variables) for _ in range(repeats)))))
        first = first or found
        numbers = (f"{own / 2**20:>8,.0f}  {own / other:>5.2f}" for own, other in zip(found, first))
        print(f"  {row:<34} {' '.join(numbers)}", flush=True)


def peak(args: argparse.Namespace, engine: str, row: Row, variables: dict[str, str] | None = None) -> Peak:
    """The peak of a way to train in new processes; of several, the mean."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    jobs = []
    for rank in range(row.processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(row.processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        jobs.append((args, engine, row, VARIABLES | (variables or {}) | (place if row.processes > 1 else {})))
    with environment(VARIABLES | (variables or {})), get_context("spawn").Pool(row.processes) as processes:
        return Peak(*map(statistics.mean, zip(*processes.starmap(peak_of_steps, jobs, 1))))


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Within it, these variables are those of new processes."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def peak_of_steps(args: argparse.Namespace, engine: str, row: Row, variables: dict[str, str]) -> Peak:
    """The peak of two steps in this process, which has done nothing yet."""
    os.environ |= variables
    api, _, loop, optim = import_engine(engine)
    config = model_config(args)
    recipe = dataclasses.replace(RECIPE, batch_split=row.batch_split, lrs=(1e-4,) * 2, weight_decay=1e-4)
    several = row.processes > 1 or "XLA_FLAGS" in variables
    with loop.Devices(row.shard_parameters) if several else contextlib.nullcontext() as devices:
        gc.collect()
        before = resident_bytes()
        options = {"precision": row.precision, "remat": row.remat, "devices": devices}
        model = api.build(config, initial_parameters(0, config), **options)
        optimizer = optim.create_optimizer(model, recipe)
        batch = training_batch(args, args.memory_batch // row.processes)
        on_device = next(iter(loop.to_device(iter([batch]), model.devices)))
        gc.collect()
        resting = resident_bytes()

        def steps() -> None:
            for step in range(2):
                float(loop.train_step({"model": model}, optimizer, on_device, recipe, step=step)["loss"])
            str(next(iter(optimizer.parameters.values())))  # waits for the update

        growth = peak_growth_bytes(engine, steps)
    return Peak(resting - before + growth, growth)


# --- labels

BATCHES = 200  # a repeat: one takes too little time to be measured


def labels_section(args: argparse.Namespace) -> None:
    """What the labels of batches of images with up to seven of 21,843 classes take, and what dense rows would."""
    for count in (128, 512):
        made = {name: labelled(count, dense) for name, dense in (("numbers of classes", False), ("dense rows", True))}
        sizes = ", ".join(f"{name} {batches.batch_bytes / 1024:,.0f} KiB" for name, batches in made.items())
        rows = {name: (labelling, count, name == "dense rows") for name in made}
        show(f"Labels of {count} images: {sizes}", measure(rows, args.repeats), "ms", 1000 / BATCHES)


def labelled(count: int, dense: bool) -> EvalBatches:
    """Batches of the labels of `count` images without pixels, with none to seven classes each."""
    rng = np.random.default_rng(0)
    first = np.concatenate([[0], np.cumsum(rng.integers(0, 8, count))])
    known = MultiLabels(rng.integers(0, 21_843, first[-1], np.int32), first, 21_843)
    split = Split(lambda i: np.zeros((1, 1, 3), np.uint8), known, str)
    row = lambda example: known[slice(example.number, example.number + 1)].multi_hot()[0]
    column = Column("labels", (known.num_classes,), np.float32, row) if dense else labels(split)
    return EvalBatches(split, None, count, columns=(column,))


def labelling(count: int, dense: bool) -> Work:
    """Batches of labels."""
    batches = labelled(count, dense)

    def work() -> None:
        for _ in range(BATCHES):
            for job in batches.jobs(0)[1]:
                job()

    return work


# --- predictions


def predictions_section(args: argparse.Namespace) -> None:
    """Memory of `predict --output` of a hundredth of --index_files and of all, without a model behind it."""
    for count in (args.index_files // 100, args.index_files):
        with tempfile.TemporaryDirectory() as name:
            folder = write_folder(Path(name), count)
            grown, seconds, files = in_fresh_process(growth_of_predictions, folder / "train", Path(name) / "out.npz")
            show(
                f"predict --output of {files:,} files, {seconds:,.0f} s of the processor",
                {"names": [Repeat(grown[0] / 2**20, 0)], "batches and file": [Repeat(grown[1] / 2**20, 0)]},
                "MiB",
            )


def growth_of_predictions(folder: Path, output: Path) -> tuple[tuple[float, float], float, int]:
    """((bytes by which memory grows at most until names are known, and after that), seconds of the processor, files)."""
    flags = {"model": "BiT-T-R26x0.5", "weights": "pretrained", "resolution": 32, "batch_eval": 128, "workers": 2}
    config, jobs, started = PredictConfig(**flags, images=(str(folder),), output=str(output)), [], cpu_seconds()
    Prediction(dataclasses.replace(config, images=(str(folder.parent / "val"),)))  # the same modules, and the model
    with (
        contextlib.redirect_stderr(io.StringIO()),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        known = peak_growth_bytes("the process", lambda: jobs.append(Prediction(config)))
        (job,) = jobs
        written = peak_growth_bytes("the process", lambda: job.show(of_no_model(job)))
    return (known, written), cpu_seconds() - started, len(job.files)


def of_no_model(job: Prediction) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What an engine gives of every batch, but for numbers: features [B, 4] and logits [B, K]."""
    for batch in job.batches():
        features = batch["images"][:, :2, :2, 0].reshape(-1, 4).astype(np.float32)
        yield features, np.tile(features, (1, 8))[:, : len(job.class_names)]
