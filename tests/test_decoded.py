"""Images that are decoded once: the same batches, within the memory that they may take."""

import concurrent.futures
import dataclasses
import itertools
import os
import secrets
import tempfile
import threading
import types

import numpy as np
import pytest
from engines import recipe_of
from PIL import Image

from common.config import TrainConfig
from common.data import decoded
from common.data.batches import EvalBatches, TrainBatches, prefetch
from common.data.catalogue import open_dataset
from common.data.decoded import Room, evaluation_shrink, kept, kept_splits, room_of_machine, training_shrink
from common.models.cards import Preprocessing
from common.runs.plan import Plan
from common.system import memory
from common.system.processes import Devices
from common.tasks.seen import shrinks


@pytest.fixture
def split(tmp_path):
    """Nine photographs of other sizes, one of them lying on its side by its EXIF orientation."""
    for number, name in itertools.product(range(9), ("train",)):
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 50 - number, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 4 else 1
        path = tmp_path / name / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, exif=exif)
    (tmp_path / "val" / "cat").mkdir(parents=True), (tmp_path / "val" / "dog").mkdir()
    (
        Image.new("RGB", (9, 9)).save(tmp_path / "val" / "cat" / "a.png"),
        Image.new("RGB", (9, 9)).save(tmp_path / "val" / "dog" / "a.png"),
    )
    return dataclasses.replace(open_dataset(str(tmp_path)).splits["train"], exif="apply")


def counted(split, reads: list[int]):
    """The split, which notes what is read of it."""
    return dataclasses.replace(split, read=lambda i: (reads.append(i), split.read(i))[1])


VIEWS = {
    "resized": {"resize": 28, "crop": 24},
    "small_side": {"resize": 28, "crop": 24, "resize_mode": "small_side", "resize_kind": "bicubic"},
    "boxes": {"resize": 24, "crop": 24, "crop_min_area": 0.1, "randaugment_layers": 2, "randaugment_magnitude": 5.0},
}


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("gib", (1.0, 20_000 / 2**30, 0.0))
def test_batches_are_the_same(split, views, gib):
    """Of three epochs, whether all images, some or none are kept; each that is kept is read once."""
    recipe, reads, room = recipe_of((0.1,) * 8, batch=4, flip=0.5, **VIEWS[views]), [], Room(int(gib * 2**30))
    shrink = training_shrink(recipe, (34, 46), len(split), room)
    assert (shrink is None) == (views == "boxes")
    once = kept(counted(split, reads), room, shrink)
    for step in range(7):
        expected, found = (
            next(prefetch(TrainBatches(one, recipe, 0), range(step, step + 1), 2)) for one in (split, once)
        )
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    times = np.bincount(reads, minlength=9)
    assert {1.0: (times == 1).all(), 0.0: (times > 1).all()}.get(gib, (times == 1).any() and (times > 1).any())


def test_pixels_that_lie_in_memory_are_not_kept_again(split):
    """Those of CIFAR, unless what all views begin with is something else."""
    pixels = dataclasses.replace(split, read=split.decode)
    for shrink, is_kept in ((None, False), (lambda image: image[:9, :9], True)):
        room = Room(2**20)
        once = kept(pixels, room, shrink)
        before = room.left
        once.read(0)
        assert (room.left < before) == is_kept


@pytest.mark.parametrize(
    "seen", (Preprocessing(24), Preprocessing(24, 28, "area"), Preprocessing(24, 28, "bicubic", rounding="torchvision"))
)
def test_evaluation_is_the_same(split, seen):
    once = kept(split, Room(2**30), evaluation_shrink(seen))
    for _ in range(2):
        (expected,), (found,) = (prefetch(EvalBatches(one, seen, 9), range(1), 2) for one in (split, once))
        np.testing.assert_array_equal(found["images"], expected["images"])


def test_small_images_grow_where_there_is_room_for_all():
    recipe = recipe_of((0.1,), resize=64, crop=64)
    assert training_shrink(recipe, (32, 32), 10, Room(10 * 3 * 64**2)) is not None
    assert training_shrink(recipe, (32, 32), 11, Room(10 * 3 * 64**2)) is None
    assert training_shrink(recipe, (640, 640), 10**6, Room(0)) is not None  # all of which would be larger as they are


class Two(Devices):
    """One of two threads that stand for processes: they agree on what the larger number is."""

    num_processes, barrier, said = 2, threading.Barrier(2, timeout=60), {}

    def __init__(self, process: int):
        self.process = process

    def agree(self, value: int) -> int:
        self.said[self.process] = value
        self.barrier.wait()
        largest = max(self.said.values())
        self.barrier.wait()
        return largest


def rooms_of_two(gib: float | None) -> list[Room]:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda process: room_of_machine(gib, Two(process)), range(2)))


def test_processes_of_a_machine_share_one_room(split, tmp_path, monkeypatch):
    """What one of them has decoded no other decodes again; nothing is left where they met."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "met"))
    (tmp_path / "met").mkdir()
    reads, rooms = [], rooms_of_two(2**-10)
    assert [room.total for room in rooms] == [2**20] * 2 and not [*(tmp_path / "met").iterdir()]
    splits = [kept(counted(split, reads), room) for room in rooms]
    for example, own in itertools.product(range(len(split)), splits):
        np.testing.assert_array_equal(own.decode(example), split.decode(example))
    assert sorted(reads) == [*range(len(split))] and rooms[0].left == rooms[1].left < 2**20


@pytest.mark.parametrize("reason", ("no such file", "a file on a disk", "no place to meet", "no files in memory"))
def test_processes_that_cannot_share_have_their_parts(reason, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if reason != "no place to meet" else tmp_path / "none"))
    target = tmp_path / ("target" if reason == "a file on a disk" else "none")
    if reason in ("no such file", "a file on a disk"):
        (tmp_path / "target").write_bytes(bytes(100))
        monkeypatch.setattr(secrets, "randbelow", lambda most: 7)
        (tmp_path / "bit-zoo-7").symlink_to(target)
    if reason == "no files in memory":
        monkeypatch.delattr(os, "memfd_create")
    assert [(room.total, room.descriptor) for room in rooms_of_two(2**-10)] == [(2**19, -1)] * 2
    assert reason != "a file on a disk" or target.read_bytes() == bytes(100)


def test_two_processes_fill_a_room_at_once():
    """No two images lie over one another, and none beyond the end."""
    room = Room.of(decoded.nameless_file(2**19))
    tables, children = [room.table(500) for _ in range(2)], []
    for number, table in enumerate(tables):
        children.append(os.fork())
        if not children[-1]:
            for example in range(500):
                room.keep(table, example, np.full((10, 20 + number, 3), 100 * number + example % 100, np.uint8))
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert all(0 < np.count_nonzero(table) < 500 or (table > 0).all() for table in tables)
    for number, example in itertools.product(range(2), range(500)):
        if place := int(tables[number][example]):
            image = room.at(place)
            assert image.shape == (10, 20 + number, 3) and (image == 100 * number + example % 100).all()
    assert 0 <= room.left < 3 * 10 * 21 + 128


def test_the_room_is_a_quarter_of_what_is_free(monkeypatch, tmp_path):
    assert room_of_machine(1.0, Devices()).total == 2**30
    assert 0 < room_of_machine(None, Devices()).total <= memory.available_bytes()
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text(str(2**20)), used.write_text(str(2**19))
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    assert memory.available_bytes() == 2**19 and room_of_machine(None, Devices()).total == 2**17
    limit.write_text("max")
    assert memory.available_bytes() > 2**20
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.available_bytes() == 0 and room_of_machine(None, Devices()).left == 0


def test_images_that_two_models_see_are_kept_whole():
    """A teacher of another resolution takes its view from all pixels; a NaFlex sees another size in every step."""
    flags = {"dataset": "cifar10-sample", "weights": "none", "model": "ViT-mu/16", "crop": 32, "resize": 36}
    plan = Plan(TrainConfig(**flags, steps=4, warmup_steps=1))
    assert {*shrinks(plan, Room(2**30))} == {*plan.splits}
    own = plan.task.columns
    second = lambda plan, split, train: (
        *own(plan, split, train),
        own(plan, split, train)[0]._replace(name="teacher_images"),
    )
    for change in (
        {"task": types.SimpleNamespace(columns=second)},
        {"recipe": recipe_of((0.1,), token_lengths="16,25")},
    ):
        told = types.SimpleNamespace(**vars(plan) | {"preprocessing": plan.preprocessing} | change)
        assert not shrinks(told, Room(2**30))
        assert {*kept_splits(told.splits, Room(2**30), {})} == {*plan.splits}
