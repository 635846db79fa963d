"""Images that are decoded once: the same batches, within the memory that they may take."""

import dataclasses
import itertools
import types

import numpy as np
import pytest
from engines import recipe_of
from PIL import Image

from common.config import TrainConfig
from common.data.batches import EvalBatches, TrainBatches, prefetch
from common.data.catalogue import open_dataset
from common.data.decoded import Room, evaluation_shrink, kept, kept_splits, training_shrink
from common.models.cards import Preprocessing
from common.runs.plan import Plan
from common.system import memory
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
    recipe, reads, room = recipe_of((0.1,) * 8, batch=4, flip=0.5, **VIEWS[views]), [], Room(gib)
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


@pytest.mark.parametrize(
    "seen", (Preprocessing(24), Preprocessing(24, 28, "area"), Preprocessing(24, 28, "bicubic", rounding="torchvision"))
)
def test_evaluation_is_the_same(split, seen):
    once = kept(split, Room(1.0), evaluation_shrink(seen))
    for _ in range(2):
        (expected,), (found,) = (prefetch(EvalBatches(one, seen, 9), range(1), 2) for one in (split, once))
        np.testing.assert_array_equal(found["images"], expected["images"])


def test_small_images_grow_where_there_is_room_for_all():
    recipe = recipe_of((0.1,), resize=64, crop=64)
    assert training_shrink(recipe, (32, 32), 10, Room(10 * 3 * 64**2 / 2**30)) is not None
    assert training_shrink(recipe, (32, 32), 11, Room(10 * 3 * 64**2 / 2**30)) is None
    assert training_shrink(recipe, (640, 640), 10**6, Room(0)) is not None  # all of which would be larger as they are


def test_the_room_is_of_all_processes_together_and_a_quarter_of_what_is_free(monkeypatch, tmp_path):
    assert Room(1.0, 4).left == 2**28 and 0 < Room(None).left <= memory.available_bytes()
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text(str(2**20)), used.write_text(str(2**19))
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    assert memory.available_bytes() == 2**19 and Room(None).left == 2**17
    limit.write_text("max")
    assert memory.available_bytes() > 2**20
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.available_bytes() == 0


def test_images_that_two_models_see_are_kept_whole():
    """A teacher of another resolution takes its view from all pixels; a NaFlex sees another size in every step."""
    flags = {"dataset": "cifar10-sample", "weights": "none", "model": "ViT-mu/16", "crop": 32, "resize": 36}
    plan = Plan(TrainConfig(**flags, steps=4, warmup_steps=1))
    assert {*shrinks(plan, Room(1.0))} == {*plan.splits}
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
        assert not shrinks(told, Room(1.0))
        assert {*kept_splits(told.splits, Room(1.0), {})} == {*plan.splits}
