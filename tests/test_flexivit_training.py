"""Training at patches of a drawn size: the original's draws and updates, three engines alike, one compilation for each size."""

import dataclasses
import json
from pathlib import Path

import flexi_original
import golden_cases
import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from golden.golden_params import image, param
from test_distillation import assert_original
from test_noise import VIT, parameters, split

from common.data.batches import Static, TrainBatches
from common.models import MixerConfig
from common.models.families import with_noise
from common.recipes import schedules
from common.recipes.per_step import drawn, sides
from common.recipes.recipe import Recipe
from common.recipes.task import Distillation
from common.system.errors import UserError

GOLDEN = Path(__file__).parent / "golden" / "flexivit"
SEED = 3  # of which the first three sizes differ
PLAIN = Recipe("test", 8, 1, 8, (0.1,) * 4, 16, 16, 1.0, patch_sizes="4,8,16")
MIXED = dataclasses.replace(PLAIN, mixup=0.2)
CONFIG = dataclasses.replace(VIT, dropout=0.0).resizable((4, 8, 16))


def test_sizes_are_the_originals():
    """Of images of 240 pixels; and with weights, whatever stands for numbers of patches."""
    found = json.loads((GOLDEN / "sampling.json").read_text())["outputs"]
    counts = json.loads((GOLDEN / "facts.json").read_text())["configs"]["i21k_sup"]["values"]["flexi"]["seqhw"]["v"]
    side = {240 // count: count for count in counts}
    draws = [side[drawn(",".join(map(str, side)), 0, step)] for step in range(24)]
    assert draws == found["recipe values, uniform, steps 1..24"]
    draws = [drawn("3:1,4:2,6:3,8:4", 0, step) for step in range(24)]
    assert draws == found["values (3,4,6,8), weights (1,2,3,4), steps 1..24"]
    assert draws != [drawn("3:1,4:2,6:3,8:4", 1, step) for step in range(24)]


def batches(steps: int, recipe: Recipe = PLAIN, **options) -> list[dict[str, np.ndarray]]:
    found = []
    for step in range(steps):
        batch, jobs = TrainBatches(split(), recipe, SEED, config=CONFIG, **options).jobs(step)
        for job in jobs:
            job()
        found.append(batch)
    return found


def test_a_batch_says_its_size_whatever_was_asked_before():
    """So that a resumed run, and every process of several, has the same."""
    found = [batch["patch_size"] for batch in batches(4)]
    assert found == [(drawn("4,8,16", SEED, step),) * 2 for step in range(4)] and len({*found}) == 3
    assert isinstance(found[0], Static) and found[0].ndim == 0
    assert found == [batch["patch_size"] for batch in batches(4, process=1, num_processes=2)]
    without = batches(4, dataclasses.replace(PLAIN, patch_sizes=""))
    assert all(np.array_equal(a["images"], b["images"]) and "patch_size" not in b for a, b in zip(batches(4), without))


def test_patches_are_dropped_of_those_there_are():
    for batch in batches(4, dataclasses.replace(PLAIN, patch_dropout=0.5)):
        count = (16 // batch["patch_size"][0]) ** 2
        assert batch["kept_patches"].shape == (8, count // 2) and batch["kept_patches"].max(initial=0) < count


@pytest.mark.parametrize(
    "words", ("", "0", "8,8", "8:0", "8:-1", "8:nan", "8:1e400", "8:1.2.3", "8;16", "8,", "x", "8.5", "100000")
)
def test_sizes_that_are_none_are_refused(words):
    with pytest.raises(UserError, match=r"expected sides in pixels, each once, such as 8,12,16"):
        sides(words)


def test_models_and_sizes_that_do_not_fit():
    with pytest.raises(UserError, match=r"Patches of 5 pixels do not fill images of 16 x 16; choose .* 2, 4, 8, 16"):
        VIT.resizable((8, 5))
    with pytest.raises(UserError, match="--patch_sizes is for ViTs"):
        MixerConfig((8, 8), 16, 2, 8, 32, 5, image_size=(16, 16)).resizable((8,))


# --- updates


class Distilled:
    """The golden case, as `test_distillation` takes one: the student sees patches of 12, 8 and then 6 pixels."""

    def __init__(self):
        self.golden = json.loads((GOLDEN / "distill_steps.json").read_text())
        given = self.golden["config"]
        student, self.names, self.arrays = self.model(given["student"], "student", (48, 48))
        self.config = dataclasses.replace(student, kernel_size=student.patch_size, position_grid=(4, 4))
        self.arrays = {name: self.arrays[name].reshape(shape) for name, shape in self.config.parameter_shapes().items()}
        self.teacher, _, arrays = self.model(given["prof"], "prof", (64, 64))
        self.teacher_arrays = {
            name: arrays[name].reshape(shape) for name, shape in self.teacher.parameter_shapes().items()
        }
        factor = np.float32(schedules.cosine(10, 2, 1.0)).astype(float)  # float32, as there
        self.recipe = recipe_of(
            map(float, given["lr"] * factor), batch=4, batch_eval=4, base_lr=given["lr"], weight_decay=given["wd"],
            clip=given["grad_clip_norm"], decay="independent", optimizer="adam", task=Distillation(teacher="golden"),
        )  # fmt: skip

    def model(self, given: dict, prefix: str, size: tuple[int, int]) -> tuple:
        config, spelling = golden_cases.big_vision_vit({"num_classes": 10} | given, size)
        names, published = golden_cases.published_names(config, spelling), self.golden["params"][f"{prefix}/"]
        assert {*names.values()} == {*published}
        value = lambda theirs: param(f"{prefix}/{theirs}", published[theirs]).astype(np.float32)
        return config, names, {ours: value(theirs) for ours, theirs in names.items()}

    def batches(self) -> list[dict[str, np.ndarray]]:
        """Five steps; mixed with the previous row, as there."""
        found, given = [], self.golden["input"]
        draws = self.golden["outputs"]["mixup_beta_sample"]["data"]
        for seed, draw, side in zip(given["seeds_per_step"], draws, self.golden["patch_size_by_step"], strict=True):
            a = max(draw, 1 - draw)
            views = {"images": image(given["shape"], seed), "teacher_images": image((4, 64, 64, 3), seed + 500)}
            views = {name: view.astype(np.float32).astype(float) for name, view in views.items()}
            views = {name: a * view + (1 - a) * np.roll(view, 1, 0) for name, view in views.items()}
            found.append(views | {"labels": np.zeros(4, np.int32), "patch_size": Static((side, side))})
        return found

    def expected(self, output: str) -> np.ndarray:
        return np.array(self.golden["outputs"][output]["data"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "bit_pytorch" else pytest.mark.slow) for name in INSTALLED]
)
def test_float64_distillation_equals_the_original(name, monkeypatch):
    """With the original's float32 matrix in the place of ours, which every processor rounds otherwise: by 1e-8 in the losses.

    The second step, whose patches are of the kernel's own size, shows that nothing else differs.
    """
    engine = Engine(name)
    flexi_original.use(engine, monkeypatch)
    assert_original(engine, monkeypatch, Distilled(), noise=2e-7)


def train(name: str, data: list, **changes) -> tuple[list[float], dict[str, np.ndarray]]:
    recipe = recipe_of((0.05,) * len(data), optimizer="adam", patch_sizes="4,8,16", **changes)
    return Engine(name).train(CONFIG, parameters(CONFIG), data, recipe, precision="float64")


def assert_close(found: tuple, expected: tuple) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    for name, array in expected[1].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("batch_split", (1, pytest.param(2, marks=pytest.mark.slow)))
def test_float64_training_is_the_same_in_every_engine(batch_split):
    """Steps with patches of 16 and 4 pixels, of a kernel for 8; the parameters are the moving averages."""
    data = [
        batch | {"patch_size": Static((side, side))} for batch, side in zip(batches(2, MIXED), (16, 4), strict=True)
    ]
    first = train(INSTALLED[0], data, ema=0.5, batch_split=2)
    for name in INSTALLED[batch_split - 1 :]:
        assert_close(train(name, data, ema=0.5, batch_split=batch_split), first)
    same = [batch | {"patch_size": Static((8, 8))} for batch in data]
    assert abs(train(INSTALLED[0], same, ema=0.5)[0][-1] - first[0][-1]) > 1e-4  # the sizes matter


@pytest.mark.slow
@pytest.mark.parametrize("precision", ("float32", "bfloat16"))
def test_other_precisions_and_sharpness_train(engine, precision):
    recipe = recipe_of((0.01,) * 4, rho=0.05 if precision == "float32" else 0.0, patch_sizes="4,8,16")
    losses, arrays = engine.train(CONFIG, parameters(CONFIG), batches(4), recipe, precision=precision)
    expected, _ = engine.train(CONFIG, parameters(CONFIG), batches(4), recipe, precision="float64")
    np.testing.assert_allclose(losses, expected, rtol=1e-4 if precision == "float32" else 0.05)


@pytest.mark.parametrize("batch_split", (1, pytest.param(2, marks=pytest.mark.slow)))
@pytest.mark.parametrize("name", INSTALLED)
def test_a_step_is_compiled_once_for_every_size(name, batch_split):
    """And no more: of nine steps with three sizes."""
    if name == "bit_pytorch":
        pytest.skip("PyTorch compiles nothing")
    engine, sizes = Engine(name), [4, 8, 8, 16, 4, 16, 8, 4, 4]
    compiled = engine.loop.add_gradients if name == "bit_jax" else engine.loop.compiled_step
    count = compiled._cache_size if name == "bit_jax" else compiled.experimental_get_tracing_count
    data = [batch | {"patch_size": Static((side, side))} for batch, side in zip(batches(9), sizes)]
    recipe, model = recipe_of((0.05,) * 9, batch_split=batch_split), engine.build(CONFIG, parameters(CONFIG))
    optimizer, counts, before = engine.optim.create_optimizer(model, recipe), [], count()
    for step, batch in enumerate(engine.devices.to_device(iter(data), model.devices)):
        engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)
        counts.append(count() - before)
    seen = [len({*sizes[: step + 1]}) for step in range(9)]
    parts = batch_split if name == "bit_jax" else 1  # a later part is added to what the first has found
    assert counts in (seen, [parts * number for number in seen]) and counts[-1] in (3, 3 * parts)


def test_noise_and_sizes_go_together():
    config = with_noise(VIT.resizable((4, 8)), 0.1, 0.1, 0.5)
    assert config.kernel_size == (8, 8) and config.position_grid == (2, 2) and config.dropout == 0.1
