"""Batches as a pure function of (seed, step), and threads that are bounded, ordered and cleaned up."""

import itertools
import re
import threading
import time

import numpy as np
import pytest
from processes import ROOT

from common.config import TrainConfig
from common.data import batches as batches_module
from common.data import columns as columns_module
from common.data.batches import EvalBatches, TrainBatches, prefetch
from common.data.columns import Column, eval_images, labels, train_images
from common.data.images import resize
from common.data.randaugment import cutout, rotate
from common.data.split import MultiLabels, Split
from common.data.views import augment, resized_recipe
from common.models.cards import Preprocessing
from common.recipes.create import create_recipe
from common.recipes.recipe import Recipe
from common.system.errors import UserError

RNG = np.random.default_rng(0)


def split_of(count: int, side: int = 12) -> Split:
    """Decoded images whose first pixel tells the example and whose columns tell a flip."""
    images = RNG.integers(0, 256, (count, side, side, 3), np.uint8)
    return Split(lambda i: images[i], np.arange(count, dtype=np.int32), lambda i: f"number {i}")


def recipe_of(**flags) -> Recipe:
    flags = {"resize": 10, "crop": 8, "steps": 100, "mixup": 0.0} | flags
    return create_recipe(TrainConfig(**flags), 100, (12, 12), {})


def batch_of(batches, step: int) -> dict[str, np.ndarray]:
    batch, jobs = batches.jobs(step)
    for job in jobs:
        job()
    return batch


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


# --- a pure function of (seed, step)


AUGMENTED = {"randaugment_layers": 2, "randaugment_magnitude": 7.5}


@pytest.mark.parametrize(
    "flags", [{}, {"mixup": 0.1}, {"crop_min_area": 0.08}, {"resize_mode": "small_side"}, AUGMENTED], ids=str
)
def test_a_batch_depends_on_seed_and_step_alone(flags):
    split, recipe = split_of(50), recipe_of(batch=16, **flags)
    in_order = [batch_of(TrainBatches(split, recipe, 3), step) for step in range(6)]
    asked = TrainBatches(split, recipe, 3)
    for step in (5, 0, 3, 3, 0):
        assert_same(batch_of(asked, step), in_order[step])
    other_seed = batch_of(TrainBatches(split, recipe, 4), 0)
    assert (other_seed["labels"] != in_order[0]["labels"]).any()
    assert all((a["labels"] != b["labels"]).any() for a, b in itertools.pairwise(in_order))


@pytest.mark.parametrize("num_workers", (1, 8))
@pytest.mark.parametrize("first", (0, 4))  # a fresh run, and one resumed after four steps
def test_threads_and_a_resumed_run_change_nothing(num_workers, first, monkeypatch):
    monkeypatch.setattr(columns_module, "CHUNK", 3)  # several jobs in a batch
    split, recipe = split_of(50), recipe_of(batch=16, mixup=0.1, **AUGMENTED)
    alone = TrainBatches(split, recipe, 0)
    prefetched = list(prefetch(TrainBatches(split, recipe, 0), range(first, 8), num_workers))
    assert len(prefetched) == 8 - first
    for step, batch in zip(range(first, 8), prefetched):
        assert_same(batch, batch_of(alone, step))


@pytest.mark.parametrize("num_processes", (1, 2, 4, 8))
def test_the_slices_of_all_processes_are_the_global_batch(num_processes):
    split, recipe = split_of(50), recipe_of(batch=16, mixup=0.1, **AUGMENTED)
    whole = batch_of(TrainBatches(split, recipe, 0), 5)
    parts = [batch_of(TrainBatches(split, recipe, 0, p, num_processes), 5) for p in range(num_processes)]
    for name in ("images", "labels"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    assert all(part["mixup_weight"] == whole["mixup_weight"] for part in parts)


@pytest.mark.parametrize(
    ("flags", "num_processes", "words"),
    [({"batch": 10}, 4, "batch of 10"), ({"batch": 12, "mixup": 0.1}, 4, "3 images")],
)
def test_a_batch_that_processes_cannot_share_is_refused(flags, num_processes, words):
    with pytest.raises(UserError, match=words):
        TrainBatches(split_of(20), recipe_of(**flags), 0, 0, num_processes)


def test_the_order_is_pinned():
    """Runs of earlier versions resume with the same batches: these numbers must never change."""
    plan = TrainBatches(split_of(10), recipe_of(batch=4, mixup=0.1), 7).plan(2)
    assert plan["examples"].tolist() == [5, 9, 8, 2]
    draws = [0.9230124616734992, 0.7203569374911785, 0.2663851419363449, 0.5792492134281088, 0.4419174165748663]
    np.testing.assert_allclose(plan["draws"][0], draws, rtol=1e-15)
    assert float(plan["mixup_weight"]) == pytest.approx(0.9997519317031272, rel=1e-12)
    split, recipe = split_of(10), recipe_of(batch=4, **AUGMENTED)
    both = TrainBatches(
        split, recipe, 7, columns=(train_images(recipe), *teaching(split, recipe, 8, own_view=True)[1:])
    )
    plan, firsts = both.plan(2), {"randaugment": 0.7724929607883628, "other_draws": 0.6928558221893869}
    for name, first in (firsts | {"other_randaugment": 0.40517876340716974}).items():
        assert plan[name].flat[0] == pytest.approx(first, rel=1e-15)


# --- epochs


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (10, 4), (7, 16), (1, 3)])  # also straddling, and far too few
def test_every_epoch_shows_every_example_once(count, batch):
    epochs = 5
    plans = TrainBatches(split_of(count), recipe_of(batch=batch), 0)
    seen = np.concatenate([plans.plan(step)["examples"] for step in range(-(-epochs * count // batch))])
    orders = seen[: epochs * count].reshape(epochs, count)
    assert (np.sort(orders) == np.arange(count)).all()
    if count > 5:
        assert len({tuple(order) for order in orders.tolist()}) == epochs  # another permutation each


def test_labels_belong_to_the_images():
    split = split_of(30)
    batch = batch_of(TrainBatches(split, recipe_of(batch=8, resize=12, crop=12), 0), 1)
    for image, label in zip(batch["images"], batch["labels"]):
        original = split.read(label)
        assert (image == original).all() or (image == original[:, ::-1]).all()
    assert batch["images"].dtype == np.uint8 and batch["labels"].dtype == np.int32


def test_labels_of_several_classes_are_their_numbers_and_fill_a_width():
    labels = MultiLabels(np.array([2, 0, 1, 1], np.int32), np.array([0, 1, 1, 3, 4]), 3)
    expected = np.array([[2, -1], [-1, -1], [0, 1], [1, -1]], np.int32)
    split = Split(split_of(4).read, labels, str)
    batches = TrainBatches(split, recipe_of(batch=4), 0)
    batch = batch_of(batches, 3)
    np.testing.assert_array_equal(batch["labels"], expected[batches.plan(3)["examples"]])
    parts = [batch_of(TrainBatches(split, recipe_of(batch=4), 0, process, 2), 3)["labels"] for process in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts), batch["labels"])
    last = batch_of(EvalBatches(split, Preprocessing(12), 3), 1)
    assert batch["labels"].dtype == last["labels"].dtype == np.int32
    assert last["labels"][0].tolist() == [1, -1] and last["mask"].tolist() == [True, False, False]


@pytest.mark.parametrize(("counts", "width"), [([0, 0], 1), ([1, 0], 1), ([2, 1], 2), ([3, 5], 8), ([16], 16)])
def test_the_width_of_labels_is_that_of_the_most_classes(counts, width):
    first = np.concatenate([[0], np.cumsum(counts)])
    labels = MultiLabels(np.arange(first[-1], dtype=np.int32), first, 21_843)
    split = Split(split_of(len(counts)).read, labels, str)
    batches = EvalBatches(split, Preprocessing(12), len(counts))
    assert batches.batch_bytes == len(counts) * (12 * 12 * 3 + 4 * width)
    assert [(row >= 0).sum() for row in batch_of(batches, 0)["labels"]] == counts
    assert MultiLabels.none(0).width == 1


def test_batches_of_many_classes_take_the_memory_of_few():
    """128 examples with one or two of 21,843 classes: 1 KiB, where dense float32 rows took 10.7 MiB."""
    first = np.concatenate([[0], np.cumsum(np.arange(128) % 2 + 1)])
    labels = MultiLabels(np.random.default_rng(0).integers(0, 21_843, first[-1], np.int32), first, 21_843)
    batch = batch_of(TrainBatches(Split(split_of(128).read, labels, str), recipe_of(batch=128), 0), 0)
    assert batch["labels"].nbytes == 1024


# --- draws


def test_half_of_the_images_are_flipped_and_crops_are_uniform():
    plans = TrainBatches(split_of(64), recipe_of(batch=64), 0)
    draws = np.concatenate([plans.plan(step)["draws"] for step in range(200)])  # 12,800 x 5
    assert draws.shape[1] == 5 and (draws >= 0).all() and (draws < 1).all()
    # The mean of 12,800 uniform numbers has the deviation 1 / sqrt(12 x 12800) = 0.0026: five of them.
    assert np.abs(draws.mean(0) - 0.5).max() < 0.013
    assert np.abs((draws < 0.5).mean(0) - 0.5).max() < 5 * 0.5 / 12_800**0.5
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 5 / 12_800**0.5


def test_images_of_one_batch_are_flipped_one_by_one():
    """Two of the original code bases flipped all of a batch, or every image."""
    split = split_of(64)
    batch = batch_of(TrainBatches(split, recipe_of(batch=64, resize=12, crop=12), 0), 0)
    flipped = [not (image == split.read(label)).all() for image, label in zip(batch["images"], batch["labels"])]
    assert 15 < sum(flipped) < 49  # 32 +- four deviations of 4


@pytest.mark.parametrize(("flags", "share"), [({"flip": 0.0}, 0), ({"flip": 1.0}, 1), ({"compat": "bit2021"}, 1)])
def test_none_or_all_of_the_images_are_flipped(flags, share):
    """Whether an image is flipped changes nothing else: the draws stay the same."""
    split = split_of(64)
    whole = recipe_of(batch=64, resize_mode="whole", crop=12, resize=None, **flags)
    batch, usual = (batch_of(TrainBatches(split, recipe, 0), 0) for recipe in (whole, recipe_of(batch=64)))
    np.testing.assert_array_equal(batch["labels"], usual["labels"])
    for image, label in zip(batch["images"], batch["labels"]):
        np.testing.assert_array_equal(image, split.read(label)[:, :: -1 if share else 1])


def test_compat_resizes_without_antialiasing():
    """A fine grating shrunk to a third: antialiased it turns grey, sampled it does not; in evaluation, too."""
    grating = np.zeros((36, 36, 3), np.uint8)
    grating[:, ::2] = 255
    split = Split(lambda i: grating, np.zeros(8, np.int32), str)
    for compat, is_grey in ((None, True), ("bit2021", False)):
        recipe = recipe_of(batch=8, resize=12, crop=12, compat=compat)
        seen = (
            batch_of(TrainBatches(split, recipe, 0), 0),
            batch_of(EvalBatches(split, Preprocessing(12, resize_kind=recipe.eval_resize_kind), 8), 0),
        )
        for batch in seen:
            inside = batch["images"][:, :, 2:-2].astype(float)
            assert (np.abs(inside - 127.5).max() < 20) == is_grey


def test_augment_resizes_crops_and_flips():
    image, recipe = split_of(1, 16).read(0), recipe_of(resize=16, crop=8)
    corner = augment(image, recipe, np.array([0, 0.999, 0, 0, 0.5]))
    np.testing.assert_array_equal(corner, image[:8, 8:])
    np.testing.assert_array_equal(augment(image, recipe, np.array([0, 0.999, 0, 0, 0.49])), corner[:, ::-1])


def test_augment_keeps_the_aspect_ratio_where_the_smaller_side_is_resized():
    image = np.arange(20 * 40, dtype=np.uint8).reshape(20, 40, 1).repeat(3, -1)
    view = augment(image, recipe_of(resize=10, crop=8, resize_mode="small_side"), np.array([0, 0.999, 0, 0, 0.5]))
    np.testing.assert_array_equal(view, resize(image, 10, 20)[:8, 12:])


def test_randaugment_follows_the_flip():
    image, recipe = split_of(1, 16).read(0), recipe_of(resize=16, crop=16, **AUGMENTED)
    draws = np.array([[0.2, 0.3, 0.6], [0.9, 0.3, 0.6]])  # rotate, then cutout
    expected = cutout(rotate(image[:, ::-1].copy(), 0.75, 0.3, 0.6), 0.75, 0.3, 0.6)
    np.testing.assert_array_equal(augment(image, recipe, np.array([0, 0, 0, 0, 0.1]), draws), expected)


def test_the_draws_of_randaugment_are_their_own():
    """With it or without, the examples, crops and flips of a seed are the same."""
    plain, augmented = (
        TrainBatches(split_of(50), recipe_of(batch=16, **flags), 0).plan(3) for flags in ({}, AUGMENTED)
    )
    np.testing.assert_array_equal(plain["draws"], augmented["draws"])
    assert plain["randaugment"].shape == (16, 0, 3) and augmented["randaugment"].shape == (16, 2, 3)
    assert len(np.unique(augmented["randaugment"])) == 96


@pytest.mark.parametrize("alpha", (0.0, 0.1, 1.0))
def test_the_mixup_weight_is_there_only_with_mixup(alpha):
    plans = TrainBatches(split_of(20), recipe_of(batch=4, mixup=alpha), 0)
    weights = [plans.plan(step).get("mixup_weight") for step in range(400)]
    if alpha == 0:
        assert set(weights) == {None}
    else:
        # Beta(alpha, alpha) has the mean 1/2 and the variance 1 / (4 (2 alpha + 1)).
        deviation = (1 / (4 * (2 * alpha + 1))) ** 0.5
        assert all(w.dtype == np.float64 and 0 <= w <= 1 for w in weights)
        assert abs(np.mean(weights) - 0.5) < 5 * deviation / 20 and abs(np.std(weights) - deviation) < 0.05


# --- columns


def teaching(split: Split, recipe: Recipe, resolution: int, *, own_view: bool = False) -> tuple[Column, ...]:
    seen = resized_recipe(recipe, resolution)
    return train_images(recipe), train_images(seen, "teacher", own_view=own_view), labels(split)


def test_another_models_column_shows_the_same_part_at_its_resolution():
    """Of images with one colour left of a border and another right of it: the border lies at the same fraction."""
    rng = np.random.default_rng(3)
    images = np.zeros((16, 64, 64, 3), np.uint8)
    for image, border in zip(images, rng.integers(16, 48, 16)):
        image[:, :border] = 200
    split, recipe = (
        Split(images.__getitem__, np.zeros(16, np.int32), str),
        recipe_of(batch=16, crop_min_area=0.3, resize=16, crop=16),
    )
    batch = batch_of(TrainBatches(split, recipe, 0, columns=teaching(split, recipe, 48)), 0)
    assert batch["teacher"].shape == (16, 48, 48, 3) and batch["images"].shape == (16, 16, 16, 3)
    light = [batch[name].astype(float).mean((1, 2, 3)) for name in ("images", "teacher")]
    assert np.abs(light[0] - light[1]).max() < 2 and light[0].std() > 20
    other = batch_of(TrainBatches(split, recipe, 0, columns=teaching(split, recipe, 48, own_view=True)), 0)
    np.testing.assert_array_equal(other["images"], batch["images"])
    assert np.abs(light[0] - other["teacher"].astype(float).mean((1, 2, 3))).max() > 20


@pytest.mark.parametrize("own_view", (False, True))
def test_further_columns_are_functions_of_seed_and_step_too(own_view):
    split, recipe = split_of(30), recipe_of(batch=16, mixup=0.1, **AUGMENTED)
    columns = teaching(split, recipe, 12, own_view=own_view)
    whole = batch_of(TrainBatches(split, recipe, 0, columns=columns), 3)
    plain = batch_of(TrainBatches(split, recipe, 0), 3)
    assert_same({name: whole[name] for name in plain}, plain)
    parts = [batch_of(TrainBatches(split, recipe, 0, p, 4, columns=columns), 3) for p in range(4)]
    np.testing.assert_array_equal(np.concatenate([part["teacher"] for part in parts]), whole["teacher"])
    alone = TrainBatches(split, recipe, 0, columns=columns[1:])  # mixup is drawn without the student's images, too
    assert_same(batch_of(alone, 3), {name: whole[name] for name in ("teacher", "labels", "mixup_weight")})
    assert TrainBatches(split, recipe, 0, columns=columns).batch_bytes == 16 * (8 * 8 * 3 + 12 * 12 * 3 + 4)


def test_the_resize_of_another_model_is_its_own():
    recipe = recipe_of(resize=20, crop=16)
    seen = resized_recipe(recipe, 32, "bicubic")
    assert (seen.crop, seen.resize, seen.resize_kind) == (32, 40, "bicubic")
    image, draws = split_of(1, 50).read(0), np.array([0.3, 0.6, 0, 0, 0.9])
    corner = int(0.3 * 9), int(0.6 * 9)
    expected = resize(image, 40, 40, "bicubic")[corner[0] : corner[0] + 32, corner[1] : corner[1] + 32]
    np.testing.assert_array_equal(augment(image, seen, draws), expected)


def test_an_image_is_decoded_once_for_all_columns_and_not_for_labels_alone():
    split, recipe, read = split_of(16), recipe_of(batch=16), []
    watched = Split(lambda i: read.append(i) or split.read(i), split.labels, str)
    batch_of(TrainBatches(watched, recipe, 0, columns=teaching(split, recipe, 12)), 0)
    assert sorted(read) == list(range(16))
    batch = batch_of(TrainBatches(watched, recipe, 0, columns=(labels(watched),)), 0)
    assert len(read) == 16 and sorted(batch["labels"].tolist()) == list(range(16))


def test_threads_decode_at_the_same_time(monkeypatch):
    """Each waits for the other: a lock around decoding would break the barrier."""
    monkeypatch.setattr(columns_module, "CHUNK", 2)
    split, both = split_of(4), threading.Barrier(2)
    waiting = Split(lambda i: both.wait(10) >= 0 and split.read(i), split.labels, str)
    assert len(list(prefetch(TrainBatches(waiting, recipe_of(batch=4), 0), range(1), 2))) == 1


def test_evaluation_pads_every_column_with_zeros():
    split = split_of(5)
    columns = (eval_images(Preprocessing(12)), eval_images(Preprocessing(24), "teacher"), labels(split))
    batch = batch_of(EvalBatches(split, Preprocessing(12), 4, columns=columns), 1)
    assert batch["mask"].tolist() == [True, False, False, False] and batch["teacher"].shape == (4, 24, 24, 3)
    np.testing.assert_array_equal(batch["teacher"][0], resize(split.read(4), 24, 24))
    assert not any(batch[name][1:].any() for name in ("images", "teacher", "labels"))


# --- evaluation


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (8, 4), (3, 4), (150, 70), (1, 1)])
def test_evaluation_sees_every_example_once(count, batch):
    split = split_of(count)
    evaluation = EvalBatches(split, Preprocessing(12), batch)
    all_batches = list(prefetch(evaluation, range(len(evaluation)), 2))
    assert len(all_batches) == -(-count // batch)
    assert all(b["images"].shape == (batch, 12, 12, 3) and b["mask"].dtype == bool for b in all_batches)
    mask = np.concatenate([b["mask"] for b in all_batches])
    assert mask[:count].all() and not mask[count:].any()
    np.testing.assert_array_equal(np.concatenate([b["labels"] for b in all_batches])[mask], np.arange(count))
    images = np.concatenate([b["images"] for b in all_batches])
    np.testing.assert_array_equal(images[:count], np.stack([split.read(i) for i in range(count)]))
    assert not images[count:].any()


def test_evaluation_resizes_to_the_crop_and_does_not_flip():
    split = split_of(4, side=24)
    images = batch_of(EvalBatches(split, Preprocessing(12, 0, "area"), 4), 0)["images"]
    means = np.stack([split.read(i) for i in range(4)]).reshape(4, 12, 2, 12, 2, 3).mean((2, 4))
    assert np.abs(images - means).max() <= 0.5


def test_evaluation_crops_the_middle_of_what_keeps_its_aspect_ratio():
    images = RNG.integers(0, 256, (3, 16, 32, 3), np.uint8)
    split = Split(lambda i: images[i], np.arange(3, dtype=np.int32), str)
    batch = batch_of(EvalBatches(split, Preprocessing(8, 16, "area"), 3), 0)
    np.testing.assert_array_equal(batch["images"], images[:, 4:12, 12:20])


def test_a_strip_that_would_fill_the_memory_is_named():
    split = Split(lambda i: np.zeros((1, 60_000, 3), np.uint8), np.zeros(1, np.int32), lambda i: "strip.png")
    with pytest.raises(UserError, match="The image strip.png would have .* pixels .* replace or remove it"):
        batch_of(EvalBatches(split, Preprocessing(224, 256, "area"), 1), 0)


# --- prefetch


class Watched:
    """Batches of one image that count how many were begun, take a moment, and may fail."""

    def __init__(self, batch_bytes: int = 1, fails: tuple[int, ...] = (), seconds: float = 0.0):
        self.batch_bytes, self.fails, self.seconds = batch_bytes, fails, seconds
        self.begun, self.run = 0, 0

    def jobs(self, step):
        self.begun += 1

        def job():
            self.run += 1
            time.sleep(self.seconds if step % 3 else 3 * self.seconds)  # later batches are ready earlier
            if step in self.fails:
                raise UserError(f"The image of step {step} is broken.")

        return {"step": np.int64(step)}, [job]


def worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_batches_come_in_order():
    steps = [int(batch["step"]) for batch in prefetch(Watched(seconds=0.001), range(5, 40), 8)]
    assert steps == list(range(5, 40)) and not worker_threads()


@pytest.mark.parametrize(
    ("num_workers", "batch_bytes", "most"),
    [(1, 1, 2), (4, 1, 8), (16, batches_module.PREFETCH_BYTES // 3, 3), (16, 10 * batches_module.PREFETCH_BYTES, 1)],
)
def test_the_look_ahead_is_bounded(num_workers, batch_bytes, most):
    watched = Watched(batch_bytes)
    for taken, _ in enumerate(prefetch(watched, range(50), num_workers), start=1):
        time.sleep(0.0005)
        assert taken <= watched.begun <= min(50, taken + most)
    assert watched.begun == 50


@pytest.mark.parametrize("num_workers", (1, 8))
def test_the_first_error_is_raised_in_its_place(num_workers):
    batches, seen = prefetch(Watched(fails=(6, 7, 5), seconds=0.001), range(30), num_workers), []
    with pytest.raises(UserError, match="image of step 5 is broken"):
        for batch in batches:
            seen.append(int(batch["step"]))
    assert seen == [0, 1, 2, 3, 4] and not worker_threads()


def test_an_error_ends_the_work_soon():
    watched = Watched(fails=(0,), seconds=0.05)
    with pytest.raises(UserError):
        next(prefetch(watched, range(10_000), 1))
    assert watched.begun == 3 and watched.run <= 2 and not worker_threads()  # what waits is not begun any more


def test_a_consumer_that_stops_early_leaves_no_thread():
    watched = Watched(seconds=0.001)
    for _ in prefetch(watched, range(10_000), 4):
        break
    assert not worker_threads() and watched.begun < 20


@pytest.mark.parametrize("num_workers", (1, 4))
def test_a_broken_image_is_named(num_workers):
    good = split_of(20)
    broken = Split(lambda i: b"no image" if i == 13 else good.read(i), good.labels, good.describe)
    evaluation = EvalBatches(broken, Preprocessing(12), 4)
    with pytest.raises(UserError, match="The image number 13 cannot be decoded .*; replace or remove it."):
        list(prefetch(evaluation, range(len(evaluation)), num_workers))
    with pytest.raises(UserError, match="number 13"):
        list(prefetch(TrainBatches(broken, recipe_of(batch=4), 0), range(5), num_workers))


def test_a_number_of_draws_belongs_to_one_purpose():
    """Also those of streams that no run has had together yet."""
    text = "".join(path.read_text() for path in (ROOT / "common").rglob("*.py"))
    numbers = re.findall(r'Stream\("\w+", (\d+)', text) + re.findall(r'\("\w*randaugment", (\d+)\)', text)
    assert len(numbers) > 9 and len({*numbers, "0", "2", "3", "11", "13"}) == len(numbers) + 5
