"""Sets of a million images: what a batch costs, what it holds in memory, and how soon a set is open."""

import dataclasses
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from engines import recipe_of

from common.data.batches import TrainBatches, epoch_order, prefetch
from common.data.blocks import Blocks
from common.data.sources import index, tar
from common.data.sources.image_files import Files
from common.datasets import open_dataset
from scripts.benchmarks.index import jpeg, write_folder, write_shards

MILLION = 1_281_167
RECIPE = recipe_of((0.1,), batch=32, resize=8, crop=8)


def seconds(work, repeats: int = 5) -> float:
    """CPU time of this thread, the least of several."""
    found = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        found.append(time.thread_time() - started)
    return min(found)


def folder_of(count: int):
    """A split of so many files with names of 20 bytes, whose index lies in memory; all of them hold one image."""
    names = np.char.add(np.char.zfill(np.arange(count).astype("S7"), 15), b".JPEG")
    files = Files(Path("/images"), np.frombuffer(names.tobytes(), np.uint8), np.arange(20, 20 * count + 20, 20))
    image = jpeg(7)
    return dataclasses.replace(
        files.split((np.arange(count) % 1000).astype(np.int32)), read=lambda i: (files.path(i), image)[1]
    )


def archives_of(count: int):
    """Its like, 1,282 images to an archive, in blocks."""
    archive, place = np.divmod(np.arange(count), 1282)
    arrays = {"archive": archive.astype(np.int32), "start": 20_000 * place, "size": np.full(count, 20_000)}
    rows = tar.Rows([Path(f"{number}.tar") for number in range(1000)], arrays)
    image, labels = jpeg(7), (np.arange(count) % 1000).astype(np.int32)
    read = lambda i: ([rows.arrays[key][i] for key in arrays], image)[1]
    return dataclasses.replace(folder_of(1), read=read, labels=labels, blocks=Blocks.of_bytes(archive, arrays["start"]))


@pytest.fixture(params=(folder_of, archives_of), ids=("folder", "archives"))
def make(request):
    return request.param


def test_a_batch_of_a_million_images_costs_what_one_of_few_does(make):
    """The order of an epoch is drawn once; what is left depends on the batch alone."""

    def cost(count: int) -> float:
        batches = TrainBatches(make(count), RECIPE, seed=0)
        epoch_order.cache_clear()
        batches.plan(0)  # draws the order
        steps = np.random.default_rng(0).integers(0, count // RECIPE.batch, 20).tolist()
        return seconds(lambda: [job() for step in steps for job in batches.jobs(step)[1]])

    assert cost(MILLION) < 2 * cost(MILLION // 100)  # caches of the processor hold the smaller index


def test_the_order_of_a_million_images_is_drawn_at_once(make):
    split = make(MILLION)
    epochs = iter(range(100))
    assert seconds(lambda: epoch_order(0, next(epochs), len(split), split.blocks), 2) < 1


def test_memory_stays_flat(make):
    """Of two hundred batches across the end of an epoch, whose order is drawn anew."""
    split = make(MILLION)
    batches, steps = TrainBatches(split, RECIPE, seed=0), MILLION // RECIPE.batch
    for step in (0, steps + 1, 2 * steps + 2):  # three orders, of which two are kept
        batches.plan(step)
    tracemalloc.start()
    try:
        held = []
        for number, _ in enumerate(prefetch(batches, range(3 * steps - 100, 3 * steps + 100), 1)):
            if number in (50, 99, 150, 199):
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(held) - min(held) < 8 * MILLION + 2**20, held  # the order of the next epoch, which drops another


def test_sets_with_an_index_are_open_at_once(tmp_path, monkeypatch):
    """20,000 images in 100 archives, and 5,000 files in 1,000 folders."""
    monkeypatch.setattr(index, "QUICK_SECONDS", 0)
    monkeypatch.setattr(index, "SETTLED_SECONDS", -60)  # they are new
    names = str(write_folder(tmp_path / "folder", 5_000)), f"wds:{write_shards(tmp_path / 'tar', 20_000, 100)}/*.tar"
    assert [len(open_dataset(name).splits["train"]) for name in names] == [5_000, 20_000]
    monkeypatch.setattr(index, "keep", lambda *_: pytest.fail("scanned again"))
    for name in names:
        assert seconds(lambda: open_dataset(name).splits["train"].read(0), 3) < 0.5  # noqa: B023
