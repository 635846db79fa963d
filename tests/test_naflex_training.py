"""NaFlex in training: batches of images at their own aspect ratio, of drawn numbers of patches; three engines alike."""

import dataclasses
import math

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from tiny_models import TEXTS

from common.data import images, naflex
from common.data.batches import EvalBatches, TrainBatches
from common.data.columns import labels
from common.data.randaugment import randaugment
from common.data.split import Split
from common.models import ViTConfig
from common.models.initial import initial_parameters
from common.recipes.per_step import drawn, lengths
from common.recipes.recipe import Recipe
from common.recipes.task import Contrastive
from common.system.errors import UserError
from common.tasks.seen import MOST_PADDING, padding

SLOW = pytest.mark.slow
SIZES = ((30, 40), (40, 30), (16, 40), (35, 35), (9, 50))  # height and width of images
SEED, LENGTHS = 3, "6,12,20:2"
RECIPE = Recipe("test", 8, 1, 8, (0.1,) * 5, 40, 32, token_lengths=LENGTHS)
BOXES = dataclasses.replace(RECIPE, crop_min_area=0.2)
CONFIG = ViTConfig((4, 4), 16, 2, 2, 24, 5, (12, 16), "map", cls_position=False, naflex=True)


def split(count: int = 20) -> Split:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (*SIZES[i % len(SIZES)], 3), np.uint8) for i in range(count)]
    return Split(pixels.__getitem__, np.arange(count, dtype=np.int32) % 5, str)


def of(recipe: Recipe, **options) -> TrainBatches:
    whole = split()
    return TrainBatches(
        whole,
        recipe,
        SEED,
        config=CONFIG,
        columns=(*naflex.train_patch_columns((4, 4), recipe), labels(whole)),
        **options,
    )


def made(batches, step: int) -> dict[str, np.ndarray]:
    batch, jobs = batches.jobs(step)
    for job in jobs:
        job()
    return batch


def parameters(config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: a + 0.1 * rng.standard_normal(a.shape) for name, a in initial_parameters(0, config).items()}


# --- batches


def test_a_batch_is_of_the_length_of_its_step_whatever_was_asked_before():
    """Also of every process of several, whose rows are those of one; and three lengths are drawn."""
    found = [made(of(RECIPE), step) for step in (4, 3, 2, 1, 0)][::-1]
    counts = [batch["patch_mask"].shape[1] for batch in found]
    assert counts == [drawn(LENGTHS, SEED, step) for step in range(5)] and len({*counts}) == 3
    shared = [of(RECIPE, process=process, num_processes=2) for process in range(2)]
    for step, batch in enumerate(found):
        assert batch["images"].shape == (8, counts[step] * 4, 4, 3) and batch["images"].dtype == np.uint8
        halves = [made(batches, step) for batches in shared]
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([half[name] for half in halves]), err_msg=name)


def test_an_epoch_shows_every_example_once_at_any_length():
    """In the order in which models of one size see them."""
    batches, fixed = (
        of(RECIPE),
        TrainBatches(split(), dataclasses.replace(RECIPE, token_lengths=""), SEED, config=CONFIG),
    )
    orders = [[plans.plan(step)["examples"].tolist() for step in range(5)] for plans in (batches, fixed)]
    assert orders[0] == orders[1] and sorted(np.ravel(orders[0])) == sorted([*range(20)] * 2)


@pytest.mark.parametrize("recipe", (RECIPE, BOXES), ids=("sides", "boxes"))
def test_a_view_is_a_box_of_its_own_ratio_resized_flipped_and_cut(recipe):
    """And what RandAugment makes of it, before it is cut."""
    recipe = dataclasses.replace(recipe, randaugment_layers=1, randaugment_magnitude=9.0)
    batches, whole, flips = of(recipe), split(), 0
    for step in range(2):
        batch, plan = made(batches, step), batches.plan(step)
        tokens = batch["patch_mask"].shape[1]
        for row, example in enumerate(plan["examples"]):
            pixels, draws = whole.read(int(example)), plan["draws"][row]
            top, left, *size = naflex.own_box(pixels.shape[:2], recipe, draws)
            height, width = naflex.fitted_size(tuple(size), (4, 4), tokens)
            view = images.resize(pixels[top : top + size[0], left : left + size[1]], height, width)
            flips += draws[4] < 0.5
            view = view[:, ::-1] if draws[4] < 0.5 else view
            view = randaugment(np.ascontiguousarray(view), 9.0, plan["randaugment"][row])
            assert batch["patch_mask"][row].sum() == height * width // 16 <= tokens
            seen = {name: batch[name][row][None] for name in ("images", "coordinates", "patch_mask")}
            np.testing.assert_array_equal(naflex.pictures(*seen.values())[0], view)
            assert not seen["images"][0, height * width // 4 :].any()
    assert 2 < flips < 14


def test_boxes_keep_nearly_the_ratio_of_the_image():
    """A tenth of all boxes are less than 80 % of the area, none less than asked for, and none is out of the image."""
    rng, ratios, areas = np.random.default_rng(0), [], []
    for size in SIZES * 40:
        size = tuple(10 * side for side in size)
        top, left, height, width = naflex.own_box(size, BOXES, rng.random(5))
        assert 0 <= top <= size[0] - height and 0 <= left <= size[1] - width
        ratios.append(width / height / (size[1] / size[0]))
        areas.append(height * width / math.prod(size))
    assert 0.74 < min(ratios) < 0.85 and 1.2 < max(ratios) < 1.35 and 0.195 < min(areas) < 0.4
    assert naflex.own_box((300, 400), RECIPE, np.array([0.0, 0.999, 0, 0, 0])) == (0, 80, 240, 320)
    whole = dataclasses.replace(RECIPE, resize=32)
    assert naflex.own_box((300, 400), whole, rng.random(5)) == (0, 0, 300, 400)


def test_whole_images_in_training_are_those_of_evaluation():
    recipe = dataclasses.replace(RECIPE, resize=32, flip=0.0, token_lengths="12")
    batch, whole = made(of(recipe), 0), split()
    seen = made(EvalBatches(whole, None, 20, columns=naflex.patch_columns((4, 4), 12, "bilinear")), 0)
    examples = of(recipe).plan(0)["examples"]
    for name in ("images", "coordinates", "patch_mask"):
        np.testing.assert_array_equal(batch[name], seen[name][examples], err_msg=name)


# --- padding

CAMERAS = ((3, 4), (2, 3), (9, 16), (1, 1), (4, 3), (3, 2), (16, 9))
TOKENS = (36, 49, 64, 100, 144, 196, 256, 400, 576, 784, 1024)


def test_at_most_a_tenth_of_photographs_is_padding():
    """Of whole photographs, as cameras make them, and of boxes, at usual numbers of patches."""
    datasets, rng = pytest.importorskip("sklearn.datasets"), np.random.default_rng(0)
    photographs, sizes = datasets.load_sample_images().images, []
    for number in range(28):
        high, wide = CAMERAS[number % len(CAMERAS)]
        photograph = photographs[number % 2]
        unit = min(photograph.shape[0] / high, photograph.shape[1] / wide)
        sizes.append((round(unit * high), round(unit * wide)))
    boxes = [naflex.own_box(size, BOXES, rng.random(5))[2:] for size in sizes]
    cut = Split(lambda i: photographs[i % 2][: sizes[i][0], : sizes[i][1]], np.zeros(28, np.int32), str)
    for tokens in TOKENS:
        assert padding(sizes, (16, 16), tokens) < MOST_PADDING / 2, tokens
        assert padding(boxes, (16, 16), tokens) < MOST_PADDING / 2, tokens
    batch = made(EvalBatches(cut, None, 28, columns=naflex.patch_columns((16, 16), 64, "bilinear")), 0)
    assert 1 - batch["patch_mask"].mean() == pytest.approx(padding(sizes, (16, 16), 64))
    unlucky, near = (padding([(480, 640)], (16, 16), tokens) for tokens in (128, 108))
    assert unlucky > 0.15 and near < 0.02  # of which train tells


# --- updates


def train(name: str, config, data: list, remat: bool = False, **changes) -> tuple[list[float], dict[str, np.ndarray]]:
    recipe = recipe_of((0.05,) * len(data), **{"optimizer": "adam", "token_lengths": LENGTHS} | changes)
    return Engine(name).train(config, parameters(config), data, recipe, precision="float64", remat=remat)


def assert_close(found: tuple, expected: tuple) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    for name, array in expected[1].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-7, atol=1e-9, err_msg=name)


PARTS = {"registers": 2, "patch_norms": ("pre", "post"), "dropout": 0.1}


def test_float64_training_is_the_same_in_every_engine():
    """Two steps of different lengths."""
    config = dataclasses.replace(CONFIG, depth=1)
    data = [made(of(BOXES), step) for step in (1, 2)]
    assert len({batch["patch_mask"].shape for batch in data}) == 2
    first = train(INSTALLED[0], config, data)
    for name in INSTALLED[1:]:
        assert_close(train(name, config, data), first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", ({}, {"pooling": "gap"} | PARTS, {"pooling": "token"} | PARTS), ids=("map", "gap", "token")
)
def test_five_steps_of_float64_training_are_the_same_in_every_engine(changes):
    """Of drawn lengths, with boxes, and an average of the parameters; once in two parts, and with activations computed again."""
    config = dataclasses.replace(CONFIG, **changes)
    recipe = dataclasses.replace(BOXES, dropout=config.dropout, stochastic_depth=0.2 if changes else 0.0)
    batches = of(recipe)
    batches.config = config
    data = [made(batches, step) for step in range(5)]
    first = train(INSTALLED[0], config, data, ema=0.5, batch_split=2)
    for name in INSTALLED:
        assert_close(train(name, config, data, remat=bool(changes), ema=0.5), first)
    moved = [batch | {"coordinates": np.zeros_like(batch["coordinates"])} for batch in data]
    assert abs(train(INSTALLED[0], config, moved, ema=0.5)[0][-1] - first[0][-1]) > 1e-4  # places matter


@pytest.mark.slow
@pytest.mark.parametrize("precision", ("float32", "bfloat16"))
def test_other_precisions_and_sharpness_train(engine, precision):
    data = [made(of(RECIPE), step) for step in range(4)]
    recipe = recipe_of((0.01,) * 4, rho=0.05 if precision == "float32" else 0.0, token_lengths=LENGTHS)
    losses, _ = engine.train(CONFIG, parameters(CONFIG), data, recipe, precision=precision)
    expected, _ = engine.train(CONFIG, parameters(CONFIG), data, recipe, precision="float64")
    np.testing.assert_allclose(losses, expected, rtol=1e-4 if precision == "float32" else 0.05)


@pytest.mark.slow
def test_pairs_of_images_at_their_ratio_and_texts_train_alike_in_every_engine():
    """The same columns in contrastive training, in parts, too."""
    config = dataclasses.replace(TEXTS["siglip"], image=dataclasses.replace(CONFIG, num_classes=None, naflex=True))
    tokens = np.random.default_rng(1).integers(1, 11, (8, 7)).astype(np.int32)
    data = [made(of(RECIPE), step) | {"tokens": tokens} for step in range(5)]
    for batch in data:
        del batch["labels"]
    first = train(INSTALLED[0], config, data, task=Contrastive())
    for name in INSTALLED:
        assert_close(train(name, config, data, task=Contrastive(), batch_split=2), first)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_step_is_compiled_once_for_every_length(name):
    """And no more: of five steps with two lengths."""
    if name == "bit_pytorch":
        pytest.skip("PyTorch compiles nothing")
    engine = Engine(name)
    compiled = engine.loop.add_gradients if name == "bit_jax" else engine.loop.compiled_step
    count = compiled._cache_size if name == "bit_jax" else compiled.experimental_get_tracing_count
    config = dataclasses.replace(CONFIG, depth=1)
    data = [made(of(RECIPE), step) for step in (1, 2, 2, 1, 2)]
    sizes = [batch["patch_mask"].shape[1] for batch in data]
    recipe, model = recipe_of((0.05,) * 5, token_lengths=LENGTHS), engine.build(config, parameters(config))
    optimizer, counts, before = engine.optim.create_optimizer(model, recipe), [], count()
    for step, batch in enumerate(engine.devices.to_device(iter(data), model.devices)):
        engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)
        counts.append(count() - before)
    assert counts == [len({*sizes[: step + 1]}) for step in range(5)] and counts[-1] == 2


@pytest.mark.parametrize("words", ("", "0", "64,64", "64:0", "64:nan", "64;100", "64,", "x", "8.5", "11586", "-1"))
def test_lengths_that_are_no_set_are_refused(words):
    with pytest.raises(
        UserError, match=f"--token_lengths is {words}, expected numbers of patches, each once, such as 64,1"
    ):
        lengths(words)
