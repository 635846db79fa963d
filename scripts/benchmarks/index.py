"""A folder as large as ImageNet: its index, and the memory of its batches."""

import argparse
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from common.data.batches import TrainBatches
from common.data.sources import Places
from common.data.sources.folder import open_folder
from common.data.sources.index import SETTLED_SECONDS
from scripts.benchmarks.measure import Work, measure, peak_growth_bytes, show
from scripts.benchmarks.steps import RECIPE


def index_section(args: argparse.Namespace) -> None:
    """A folder of as many (empty) files as ImageNet has images: scanned once, opened ever after."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for split, count in {"train": args.index_files, "val": args.index_files // 25}.items():
            for i in range(count):
                path = root / split / f"n{i % 1000:08d}"
                if i < 1000:
                    path.mkdir(parents=True)
                os.close(os.open(path / f"n{i % 1000:08d}_{i}.JPEG", os.O_CREAT | os.O_WRONLY))
        time.sleep(SETTLED_SECONDS + 1)  # what changed a moment ago is not kept
        what = f"A folder of {args.index_files + args.index_files // 25:,} files in 1,000 classes"
        rows = {"scanned, and the index written": (opening, root, True), "opened by its index": (opening, root, False)}
        show(what, measure(rows, 3), "s")
        index = next(path for path in root.iterdir() if path.is_file())
        rows = {"to open it": (memory_of_plans, root, 0), "and walk 10,000 batches": (memory_of_plans, root, 10_000)}
        show(f"{what}: memory (index {index.stat().st_size / 2**20:.0f} MiB)", measure(rows, 1), "MiB")


def opening(root: Path, scan: bool) -> Work:
    """Seconds until a folder can be read from; with `scan`, without its index."""

    def work() -> None:
        if scan:
            for path in root.glob(".*.safetensors"):
                path.unlink()
        open_folder(str(root), Places())

    return work


def memory_of_plans(root: Path, num_batches: int) -> Work:
    """Growth of memory while random batches of 1,024 are planned and their labels and paths looked up."""

    def work() -> float:
        def walk() -> None:
            split = open_folder(str(root), Places()).splits["train"]
            batches = TrainBatches(split, dataclasses.replace(RECIPE, batch=1024), seed=0)
            for step in np.random.default_rng(0).integers(0, 2 * len(split) // 1024, num_batches):  # of two epochs
                examples = batches.plan(int(step))["examples"]
                split.targets(examples)
                split.describe(int(examples[0]))

        return peak_growth_bytes("the process", walk) / 2**20

    return work
