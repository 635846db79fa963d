"""Sets as large as ImageNet, as a folder and as 1,000 tar archives: their indices, and what a batch costs then."""

import argparse
import dataclasses
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from common.data.batches import TrainBatches, prefetch
from common.data.catalogue import open_dataset
from common.data.sources.index import SETTLED_SECONDS
from scripts.benchmarks.measure import Repeat, Work, cpu_seconds, in_fresh_process, measure, show
from scripts.benchmarks.steps import RECIPE

TINY = dataclasses.replace(RECIPE, resize=8, crop=8)  # of images that take no time, so that the rest can be seen


def index_section(args: argparse.Namespace) -> None:
    """As many images as ImageNet has: scanned once, opened ever after, and read in batches beside a hundredth of them."""
    with tempfile.TemporaryDirectory() as name:
        sets = {}
        for share, count in {
            "all": args.index_files,
            "a hundredth": max(args.index_files // 100, 4 * TINY.batch),
        }.items():
            sets["folder", share] = str(write_folder(Path(name) / f"folder-{share}", count))
            sets["wds:", share] = f"wds:{write_shards(Path(name) / f'tar-{share}', count, -(-count // 1282))}/*.tar"
        time.sleep(SETTLED_SECONDS + 1)  # what changed a moment ago is not kept
        for kind in ("folder", "wds:"):
            what, whole = f"{kind} of {args.index_files:,} images", sets[kind, "all"]
            show(f"{what}: scanned, and the index written", {"first start": [first_start(whole)]}, "s")
            show(f"{what}: opened", measure({"by its index": (opening, whole)}, args.repeats), "s")
            rows = {f"of {share}": (cost_of_batches, sets[kind, share]) for share in ("a hundredth", "all")}
            show(f"{what}: a batch of {TINY.batch}", measure(rows, args.repeats), "CPU ms")
            held = in_fresh_process(memory_of_batches, whole, args.index_batches)
            rows = {f"after {number:,} batches": [Repeat(mib, 0.0)] for number, mib in held.items()}
            show(f"{what}: memory of the process, without the index", rows, "MiB")


def write_folder(root: Path, count: int) -> Path:
    """`count` training images in 1,000 classes, and one of each class to validate: of a class all are links to one file."""
    for split, files in {"train": count, "val": 1000}.items():
        for label in range(min(1000, count)):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            first = folder / f"{label}.JPEG"
            first.write_bytes(jpeg(label))
            for i in range(label + 1000, files, 1000):
                os.link(first, f"{folder}/{i}.JPEG")
    return root


def write_shards(folder: Path, count: int, num_shards: int) -> Path:
    """About `count` training images in so many archives, in 1,000 classes; links to one archive."""
    folder.mkdir()
    with tarfile.open(folder / "train-0000.tar", "w") as file:
        for i in range(count // num_shards):
            for ending, data in (("cls", str(i % 1000).encode()), ("jpg", jpeg(i))):
                member = tarfile.TarInfo(f"{i:06d}.{ending}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    for number in range(1, num_shards):
        os.link(folder / "train-0000.tar", folder / f"train-{number:04d}.tar")
    return folder


def jpeg(number: int) -> bytes:
    """A JPEG file of 8 px, in a grey of its own."""
    return cv2.imencode(".jpg", np.full((8, 8, 3), number % 256, np.uint8))[1].tobytes()


def first_start(name: str) -> Repeat:
    """Seconds until a set can be read that nobody has scanned yet."""
    started, cpu_started = time.perf_counter(), cpu_seconds()
    opening(name)()
    return Repeat(time.perf_counter() - started, cpu_seconds() - cpu_started)


def opening(name: str) -> Work:
    """Open a set, and read an image."""

    def work() -> None:
        open_dataset(name).splits["train"].read(0)

    return work


def cost_of_batches(name: str) -> Work:
    """CPU milliseconds per batch, of two hundred at some place of an epoch of all images, whose order is drawn before."""
    batches = TrainBatches(open_dataset(name).splits["train"], TINY, seed=0)
    last = len(batches.split) // TINY.batch - 1

    def work() -> float:
        started = time.process_time()
        for step in np.random.default_rng(0).integers(0, last, 200):
            for job in batches.jobs(int(step))[1]:
                job()
        return (time.process_time() - started) / 200 * 1000

    return work


def memory_of_batches(name: str, num_batches: int) -> dict[int, float]:
    """{number of batches: MiB of the process's own memory after them}, of a tenth of them and of all."""
    batches, held = TrainBatches(open_dataset(name).splits["train"], TINY, seed=0), {}
    for number, _ in enumerate(prefetch(batches, range(num_batches), 1), 1):
        if number in (num_batches // 10, num_batches):
            held[number] = own_mib()
    return held


def own_mib() -> float:
    """Memory of this process that no file backs."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024
