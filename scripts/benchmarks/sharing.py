"""Decoded images of two processes of one machine: in one room, and in two of half its size."""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.data.batches import TrainBatches, prefetch
from common.data.columns import labels, train_images
from common.data.decoded import Room, kept, nameless_file
from common.datasets import open_dataset
from scripts.benchmarks.inputs import BOXES, write_images
from scripts.benchmarks.measure import Repeat, show

EPOCHS, COUNT, SIDE = 4, 640, 500
NEEDED = COUNT * (3 * SIDE * (SIDE * 3 // 4) + 128) + 2**16  # bytes of all images


def sharing_section(args: argparse.Namespace) -> None:
    """What an epoch costs two processes, each of which sees a random half of the images in every epoch."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), SIDE, COUNT)
        for share, what in ((1.0, "all images"), (0.5, "half of them")):
            size = int(share * NEEDED)
            common = nameless_file(size)
            rows = {
                "a room for each, of half the size": of_two(folder, lambda size=size: Room(size // 2)),
                "one room": of_two(folder, lambda common=common: Room.of(common)),
                "nothing kept": of_two(folder, lambda: Room(0)),
            }
            title = f"{SIDE}-px JPEG, random boxes, two processes, room for {what}"
            for number, (figure, unit) in enumerate(
                (("an epoch after the first", "CPU us an image"), ("memory", "MiB"))
            ):
                figures = {row: [Repeat(value, 0.0) for value in own[number]] for row, own in rows.items()}
                show(f"{title}: {figure}", figures, unit)


def of_two(folder: str, room: Callable[[], Room]) -> tuple[list[float], list[float]]:
    """(CPU microseconds an image of each epoch after the first, MiB of images that both keep)."""
    context = multiprocessing.get_context("fork")
    meeting, answers = context.Barrier(2), context.SimpleQueue()
    processes = [context.Process(target=train, args=(folder, room, number, meeting, answers)) for number in range(2)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    costs = [sum(seconds) / COUNT * 1e6 for seconds in zip(*(own for own, _ in found))]
    kept_bytes = dict(own for _, own in found)  # of one room once
    return costs, [sum(kept_bytes.values()) / 2**20]


def train(folder: str, room: Callable[[], Room], number: int, meeting: Any, answers: Any) -> None:
    """The batches of one process: its CPU seconds in each epoch after the first, and {room: bytes in use}."""
    own = room()
    split = kept(open_dataset(folder).splits["train"], own)
    batches = TrainBatches(split, BOXES, 0, number, 2, columns=(train_images(BOXES), labels(split)))
    steps, seconds = COUNT // BOXES.batch, []
    for epoch in range(EPOCHS):
        meeting.wait()  # in training, each step waits for all
        started = time.process_time()
        for _ in prefetch(batches, range(epoch * steps, (epoch + 1) * steps), 1):
            pass
        seconds.append(time.process_time() - started)
    meeting.wait()
    answers.put((seconds[1:], ("both" if own.descriptor >= 0 else number, max(0, own.total - own.left))))
