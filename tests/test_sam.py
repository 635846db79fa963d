"""SAM and GSAM in every engine: formulas, golden numbers of the original, and what users see of them."""

import dataclasses
import functools
import json
import math
import signal
from pathlib import Path

import golden_cases
import numpy as np
import pytest
from engines import recipe_of
from golden.golden_params import image
from jobs import Job, assert_close, make_images, metrics

from common.config import TrainConfig
from common.data.batches import rows_of
from common.flags import check
from common.models import MixerConfig
from common.recipes import schedules
from common.recipes.create import create_recipe
from common.recipes.groups import trained as trained_names
from common.recipes.recipe import Recipe, check_sharing
from common.recipes.task import Classification
from common.system.errors import UserError

GOLDEN = Path(__file__).parent / "golden" / "gsam"
STEPS = ("vit_gsam", "vit_gsam_small_rho_softmax", "vit_sam")
MIXER = MixerConfig((8, 8), 16, 2, 16, 32, 5, image_size=(16, 16))


def slow(*values):
    """A case of the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


# --- how far the parameters ascend


@pytest.mark.parametrize("name", STEPS)
def test_rho_is_the_originals(name):
    """One step ahead of the rate, to a few roundings of the original's float32."""
    case = golden(name)
    numbers, lr = case["config"]["gsam"], case["config"]["lr"]
    *lrs, end_lr = schedules.linear(10, 2, lr, case["config"]["schedule"]["linear_end"], beyond=1)
    recipe = recipe_of(lrs, base_lr=lr, end_lr=end_lr, rho=numbers["rho_max"], rho_min=numbers["rho_min"])
    assert end_lr == pytest.approx(numbers["lr_min"], rel=1e-15)
    found = [recipe.update_numbers(step).rho for step in range(10)]
    np.testing.assert_allclose(found[:5], case["rho"]["derived_rho_by_step_1_to_5"], rtol=4 * 2**-24)
    assert found[-1] == pytest.approx(numbers["rho_min"], rel=1e-15)


def test_rho_is_not_clipped():
    recipe = recipe_of((0.0, 0.0, 1.0, 0.5), base_lr=1.0, end_lr=0.1, rho=0.6, rho_min=0.1)
    assert recipe.rho_at(0) == pytest.approx(0.1 - 0.5 / 9) and recipe.rho_at(3) == 0.1


def test_rho_is_constant_where_rates_are():
    recipe = recipe_of((0.1, 0.1), base_lr=0.1, end_lr=0.1, rho=0.6, rho_min=0.1)
    assert recipe.rho_at(0) == recipe.rho_at(1) == 0.6


@pytest.mark.parametrize("kind", ("cosine", "linear", "rsqrt", "stepwise"))
def test_rates_beyond_the_end_follow_those_before(kind):
    schedule = getattr(schedules, kind)
    assert schedule(20, 3, 0.5, beyond=1)[:-1] == schedule(20, 3, 0.5)


def test_where_schedules_end():
    assert schedules.cosine(20, 3, 0.5, beyond=1)[-1] == 0 == schedules.rsqrt(20, 3, 0.5, cooldown=4, beyond=1)[-1]
    assert schedules.linear(20, 3, 0.5, 0.01, beyond=1)[-1] == pytest.approx(0.005)
    assert schedules.rsqrt(20, 3, 0.5, 17, beyond=1)[-1] == pytest.approx(0.5 / math.sqrt(2))
    assert schedules.stepwise(20, 3, 0.5, beyond=1)[-1] == pytest.approx(0.0005)


# --- what users ask for


def asked(num_examples: int = 50_000, **flags):
    """The recipe of flags, for 32 px."""
    return create_recipe(TrainConfig(**flags), num_examples, (32, 32), {})


def test_rho_alone_is_sam():
    recipe = asked(rho=0.05, steps=20)
    assert {recipe.rho_at(step) for step in range(20)} == {0.05} and recipe.gsam_alpha == 0
    assert recipe.num_ascents == 1 and recipe.ascent == recipe


def test_without_rho_a_recipe_is_what_it_was():
    """The numbers of SAM have the values that older runs lack."""
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    names = ("rho", "rho_min", "gsam_alpha", "sam_group", "end_lr")
    assert all(getattr(asked(), name) == fields[name] == 0 for name in names)
    assert asked().update_numbers(3).rho == 0


def test_rho_falls_with_the_rate_to_its_least():
    recipe = asked(rho=0.6, rho_min=0.1, schedule="linear", steps=10, warmup_steps=0)
    assert recipe.rho_at(0) == pytest.approx(0.55) and recipe.rho_at(9) == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff([recipe.rho_at(step) for step in range(10)]), -0.05)


def test_zero_turns_a_recipes_sam_off():
    assert asked(rho=0.0, rho_min=0.0, gsam_alpha=0.0, sam_group=0) == asked()


@pytest.mark.parametrize(
    "batch_split, group, parts", [(1, 0, 1), (8, 0, 8), (8, 16, 2), (2, 16, 1), (4, 16, 1), (1, 8, 1)]
)
def test_micro_batches_of_a_group(batch_split, group, parts):
    """Together at least as many as were asked for."""
    recipe = asked(batch=64, rho=0.1, sam_group=group, batch_split=batch_split, mixup=0.0)
    assert recipe.num_ascents == (64 // group if group else 1) and recipe.ascent.batch_split == parts
    assert recipe.num_ascents * parts >= batch_split


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"rho_min": 0.1}, "--rho_min 0.1 belongs to SAM, which is off; give --rho, too"),
        ({"gsam_alpha": 0.5, "rho": 0.0}, "--gsam_alpha 0.5 belongs to SAM, which is off"),
        ({"sam_group": 8}, "--sam_group 8 belongs to SAM, which is off"),
        ({"rho": 0.1, "rho_min": 0.2}, "--rho_min 0.2 is above --rho 0.1; give at most as much"),
        ({"rho": 0.1, "sam_group": 7}, "--sam_group 7 does not divide the batch of 24; choose a divisor"),
        ({"rho": 0.1, "sam_group": 48}, "--sam_group 48 does not divide the batch of 24"),
        (
            {"rho": 0.1, "sam_group": 8, "batch_split": 4},
            "--batch_split 4 cannot cut the 3 groups of --sam_group 8 alike",
        ),
        ({"rho": 0.1, "sam_group": 2, "batch_split": 24}, "24 does not .*|has 1 images"),
        ({"rho": 0.1, "sam_group": 3}, "has 3 images"),
    ],
)
def test_what_cannot_be_is_refused(flags, words):
    with pytest.raises(UserError, match=words):
        asked(batch=24, **flags)


@pytest.mark.parametrize("num_devices, words", [(3, "3 devices cannot share groups of 8 images"), (8, "has 1 images")])
def test_devices_that_cannot_share_a_group_are_refused(num_devices, words):
    with pytest.raises(UserError, match=words):
        check_sharing(asked(batch=24, rho=0.1, sam_group=8), num_devices)


@pytest.mark.parametrize("value", (-1, -1e-9, math.nan))
@pytest.mark.parametrize("flag", ("rho", "rho_min", "gsam_alpha"))
def test_numbers_below_zero_are_refused(flag, value):
    with pytest.raises(UserError, match=f"--{flag} is .*, expected at least 0"):
        check(TrainConfig(**{flag: value}))


def test_a_group_of_fewer_images_than_none_is_refused():
    with pytest.raises(UserError, match="--sam_group is -8, expected at least 0"):
        check(TrainConfig(sam_group=-8))


@pytest.mark.parametrize("num_processes, num_devices", [(1, 1), (1, 4), (2, 4), (4, 4)])
def test_every_device_holds_its_share_of_every_group(num_processes, num_devices):
    """Cut as engines cut it: of each device's slice, one contiguous part for each group."""
    recipe = asked(batch=24, rho=0.1, sam_group=8)
    held = [rows_of(recipe, process, num_processes, num_devices) for process in range(num_processes)]
    shares = np.concatenate(held).reshape(num_devices, 3, -1)
    for group in range(3):
        assert sorted(shares[:, group].ravel()) == list(range(8 * group, 8 * group + 8))
    assert (shares[..., ::2] + 1 == shares[..., 1::2]).all()  # mixup's partners stay together
    whole = dataclasses.replace(recipe, sam_group=0)
    held = [rows_of(whole, process, num_processes, num_devices) for process in range(num_processes)]
    assert np.concatenate(held).tolist() == list(range(24))


# --- up and back, by the formulas


def drawn(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in MIXER.parameter_shapes().items()}


def native(engine, model, optimizer, gradients: dict[str, np.ndarray], precision: str) -> dict:
    """Gradients {canonical name: array} as the engine's own, by its names."""
    if engine.name == "bit_pytorch":
        return {
            name: engine.weights.to_tensor(gradients[ours], ours).to(value.dtype, copy=True)
            for name, value in model.named_parameters()
            for ours in [engine.weights.canonical_name(name, value)]
        }
    named = {path: gradients[engine.weights.canonical_name(path)] for path in optimizer.parameters}
    return {path: engine.cast(engine.raw(array), precision) for path, array in named.items()}


def canonical(engine, model, gradients: dict) -> dict[str, np.ndarray]:
    """{canonical name: array} of the engine's gradients."""
    if engine.name == "bit_pytorch":
        named = {name: engine.weights.canonical_name(name, value) for name, value in model.named_parameters()}
        return {named[name]: engine.weights.to_array(value, named[name]) for name, value in gradients.items()}
    return {engine.weights.canonical_name(path): np.asarray(value) for path, value in gradients.items()}


@pytest.fixture(params=("float32", "float64"))
def precision(request) -> str:
    return request.param


def test_parameters_ascend_and_return_bit_for_bit(engine, precision):
    arrays, gradients = drawn(0), drawn(1)
    recipe = recipe_of((0.1, 0.1), base_lr=0.1, rho=0.37, rho_min=0.37, optimizer="adam", ema=0.9)
    model = engine.build(MIXER, arrays, precision)
    optimizer = engine.optim.create_optimizer(model, recipe)
    before, state = engine.weights.dump(model), engine.weights.dump_optimizer(model, optimizer)
    slopes = native(engine, model, optimizer, gradients, precision)
    with engine.optim.ascended(optimizer, slopes, recipe.update_numbers(0)):
        within = engine.weights.dump(model)
    norm = math.sqrt(sum((array**2).sum() for array in gradients.values()))
    bound = {"float32": 1e-6, "float64": 1e-14}[precision]
    for name, array in arrays.items():
        expected = array + 0.37 * gradients[name] / (norm + 1e-12)
        np.testing.assert_allclose(within[name], expected, rtol=bound, atol=bound)
    after, state_after = engine.weights.dump(model), engine.weights.dump_optimizer(model, optimizer)
    assert all(after[name].tobytes() == before[name].tobytes() != within[name].tobytes() for name in before)
    assert all(state_after[name].tobytes() == state[name].tobytes() for name in state)


def test_parameters_return_after_an_error(engine):
    recipe = recipe_of((0.1,), rho=0.5, rho_min=0.5)
    model = engine.build(MIXER, drawn(0))
    optimizer = engine.optim.create_optimizer(model, recipe)
    before, slopes = engine.weights.dump(model), native(engine, model, optimizer, drawn(1), "float32")
    with pytest.raises(KeyboardInterrupt), engine.optim.ascended(optimizer, slopes, recipe.update_numbers(0)):
        raise KeyboardInterrupt
    after = engine.weights.dump(model)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)


@pytest.mark.parametrize("scale", (0.0, 1e-30, 1.0))
def test_nothing_ascends_without_a_gradient(engine, scale):
    """Gradients of 0 and such as 1e-30, whose squares float32 does not hold, leave the parameters finite."""
    recipe = recipe_of((0.1,), rho=0.5, rho_min=0.5, gsam_alpha=0.4)
    model = engine.build(MIXER, drawn(0))
    optimizer = engine.optim.create_optimizer(model, recipe)
    slopes = native(engine, model, optimizer, {name: scale * g for name, g in drawn(1).items()}, "float32")
    with engine.optim.ascended(optimizer, slopes, recipe.update_numbers(0)):
        assert all(np.isfinite(array).all() for array in engine.weights.dump(model).values())
    combined = canonical(engine, model, engine.optim.sharpness_aware(slopes, slopes, recipe))
    assert all(np.isfinite(array).all() for array in combined.values())


@pytest.mark.parametrize("alpha", (0.0, 0.6))
def test_gradients_of_gsam_follow_the_formula(engine, alpha):
    clean, sharp = drawn(2), drawn(3)
    recipe = recipe_of((0.1,), rho=0.5, rho_min=0.5, gsam_alpha=alpha)
    model = engine.build(MIXER, drawn(0), "float64")
    optimizer = engine.optim.create_optimizer(model, recipe)
    ours = [native(engine, model, optimizer, gradients, "float64") for gradients in (clean, sharp)]
    found = canonical(engine, model, engine.optim.sharpness_aware(*ours, recipe))
    norm = math.sqrt(sum((array**2).sum() for array in sharp.values()))
    along = sum((clean[name] * sharp[name] / norm).sum() for name in clean)
    for name in clean:
        across = clean[name] - along * sharp[name] / norm
        np.testing.assert_allclose(found[name], sharp[name] - alpha * across, rtol=1e-12, atol=1e-13)


def test_a_task_without_use_for_it_refuses_it(monkeypatch):
    monkeypatch.setattr(Classification, "refuses", ("rho",))
    with pytest.raises(UserError, match="--rho 0.1 is of no use to the task classification; leave it out."):
        asked(rho=0.1)


def test_groups_of_a_task_whose_batches_are_whole_are_refused(monkeypatch):
    monkeypatch.setattr(Classification, "splits_batches", False)
    assert asked(rho=0.1).rho
    with pytest.raises(UserError, match="--sam_group cuts batches, and the loss of classification is of a whole one"):
        asked(rho=0.1, sam_group=256)


# --- golden numbers of the original


class Single(Recipe):
    """A recipe whose rho is the original's: in float32, each product and sum rounded once, as XLA compiles them.

    Found by search: rounded so, the gradient norms of all ten steps are the original's to 1e-14; where rho is off by one
    bit, they are off by 2e-9 or more.
    """

    def rho_at(self, step: int) -> float:
        if self.rho == self.rho_min:
            return float(np.float32(self.rho))
        factor = self.lrs[step + 1] / self.base_lr
        above = fused(factor, self.base_lr, -self.end_lr)
        return float(fused(above, (self.rho - self.rho_min) / (self.base_lr - self.end_lr), self.rho_min))


def fused(a: float, b: float, c: float) -> np.float32:
    """a * b + c of float32, rounded once."""
    a, b, c = (float(np.float32(value)) for value in (a, b, c))
    return np.float32(a * b + c)


def golden_recipe(config: dict, **changes) -> Recipe:
    """What a case of training steps states; the schedule's factor is float32."""
    numbers, lr = config["gsam"], config["lr"]
    *factors, end = schedules.linear(config["total_steps"], 2, 1.0, config["schedule"]["linear_end"], beyond=1)
    fields = vars(recipe_of(np.float32(factors).astype(float) * lr)) | {
        "batch": 4, "optimizer": "adam", "base_lr": lr, "end_lr": end * lr, "weight_decay": config["wd"],
        "decay": "independent", "clip": config["grad_clip_norm"], "rho": numbers["rho_max"],
        "rho_min": numbers["rho_min"], "gsam_alpha": numbers["alpha"],
        "task": Classification(loss=config["loss"].removesuffix("_xent")),
    }  # fmt: skip
    return Single(**fields | changes)


def golden_batch(seed: int) -> dict[str, np.ndarray]:
    labels = np.random.RandomState(1000 + seed).randint(0, 10, 4).astype(np.int32)
    return {"images": image((4, 32, 32, 3), seed).astype(np.float32), "labels": labels}


def sharp_gradients(engine, model, optimizer, batch, recipe, step: int = 0) -> tuple[float, dict]:
    """(loss, gradients) of a step, which changes nothing."""
    numbers = recipe.update_numbers(step)
    if engine.name == "bit_tf2":
        tf = pytest.importorskip("tensorflow")
        numbers = tf.constant(tf.nest.flatten(numbers), model.dtype)
    measured, slopes = engine.loop.sharp_gradients({"model": model}, optimizer, batch, recipe, numbers)
    return float(measured["loss"]), slopes


def check_against(found: np.ndarray, expected: dict, name: str) -> None:
    assert np.linalg.norm(found) == pytest.approx(expected["l2"], rel=1e-9), name
    assert found.sum() == pytest.approx(expected["sum"], rel=1e-9, abs=1e-8), name
    np.testing.assert_allclose(found.ravel()[:4], expected["first4"], rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    "name", ("gsam_warmup_below_lr_min", *(slow(name) for name in ("gsam", "gsam_small_rho", "sam", "sam_equal_lr")))
)
def test_one_gradient_equals_the_original(engine, monkeypatch, name):
    """The schedule of rho included: at a rate below the least one, and with equal ones."""
    engine.keep_images(monkeypatch)
    case = golden_cases.case("gsam/gsam_gradient_variants")
    numbers, expected = case.golden["gradients"][name].values()
    recipe = recipe_of(
        (0.0, numbers["lr"]), base_lr=numbers["lr_max"], end_lr=numbers["lr_min"], rho=numbers["rho_max"],
        rho_min=numbers["rho_min"], gsam_alpha=numbers["alpha"], loss="sigmoid", batch=4,
    )  # fmt: skip
    model = engine.build(case.config, case.arrays(), "float64")
    optimizer = engine.optim.create_optimizer(model, recipe)
    batch = next(engine.devices.to_device(iter([golden_batch(100)]), model.devices))
    loss, slopes = sharp_gradients(engine, model, optimizer, batch, recipe)
    assert loss == pytest.approx(case.expected(f"{name}/loss").item(), abs=1e-8)
    norm = float(engine.optim.global_norm(slopes))
    assert norm == pytest.approx(case.expected(f"{name}/grad_global_norm").item(), rel=1e-9)
    found = canonical(engine, model, slopes)
    for ours, theirs in case.names.items():
        if not theirs.endswith("key/bias"):  # exactly 0, but for rounding
            check_against(found[ours], expected[theirs], theirs)
    engine.forget_compiled()


@pytest.mark.parametrize(
    "name, batch_split",
    [("vit_gsam", 1), *(slow(name, parts) for name in STEPS for parts in (1, 2) if (name, parts) != ("vit_gsam", 1))],
)
def test_float64_training_equals_the_original(engine, monkeypatch, name, batch_split):
    """Five steps: losses within 1e-8, gradient norms and parameters within 1e-9."""
    engine.keep_images(monkeypatch)
    case = golden_cases.case(f"gsam/{name}")
    recipe = golden_recipe(case.golden["config"], batch_split=batch_split)
    model = engine.build(case.config, case.arrays(), "float64")
    optimizer, losses, norms = engine.optim.create_optimizer(model, recipe), [], []
    batches = map(golden_batch, case.golden["input"]["seeds_per_step"])
    for step, batch in enumerate(engine.devices.to_device(batches, model.devices)):
        _, slopes = sharp_gradients(engine, model, optimizer, batch, recipe, step)
        norms.append(float(engine.optim.global_norm(slopes)))
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
    engine.forget_compiled()
    np.testing.assert_allclose(losses, case.expected("training_loss"), rtol=0, atol=1e-8)
    np.testing.assert_allclose(norms, case.expected("grad_global_norm"), rtol=1e-9)
    trained = engine.weights.dump(model)
    for ours, theirs in case.names.items():
        if not theirs.endswith("key/bias"):  # whose gradients are rounding, of which Adam makes steps
            check_against(trained[ours], case.golden["final_params"][theirs], theirs)


# --- one step, however it is cut


def batch_of(count: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    images, labels = rng.integers(0, 256, (count, 16, 16, 3), np.uint8), rng.integers(0, 5, count, np.int32)
    return {"images": images, "labels": labels, "mixup_weight": np.float64(0.3)}


RATES = {"lrs": (0.05, 0.04, 0.03), "base_lr": 0.05, "batch": 8}
SAM = {"rho": 0.3, "rho_min": 0.1, "gsam_alpha": 0.4}


def trained(engine, **numbers) -> tuple[list[float], dict[str, np.ndarray]]:
    """(losses, parameters) of three steps of the Mixer in float64."""
    recipe = recipe_of(**RATES | numbers)
    return engine.train(MIXER, drawn(0), [batch_of()] * 3, recipe, precision="float64")


def close(found: tuple, expected: tuple, bound: float = 1e-11) -> bool:
    pairs = [(np.array(found[0]), np.array(expected[0])), *((found[1][name], expected[1][name]) for name in found[1])]
    return all(np.abs(a - b).max() <= bound * max(1, np.abs(b).max()) for a, b in pairs)


@pytest.mark.slow
def test_parts_do_not_matter_and_groups_do(engine):
    """Micro-batches change nothing but rounding, with and without groups; groups and SAM change the result."""
    whole, groups = trained(engine, **SAM), trained(engine, **SAM, sam_group=4)
    assert close(trained(engine, **SAM, batch_split=4), whole) and close(trained(engine, **SAM, sam_group=8), whole)
    assert close(trained(engine, **SAM, sam_group=4, batch_split=4), groups)
    plain = trained(engine)
    assert not close(whole, groups, 1e-6) and not close(whole, plain, 1e-4)
    assert whole[0][0] == plain[0][0]  # the loss before the first update is that of the parameters themselves


def test_each_group_has_its_own_ascent(engine):
    """The mean of what each half of the batch gives alone."""
    recipe = recipe_of(**RATES | SAM, sam_group=4)
    model = engine.build(MIXER, drawn(0), "float64")
    optimizer = engine.optim.create_optimizer(model, recipe)

    def gradients(batch: dict, recipe: Recipe) -> dict[str, np.ndarray]:
        on_device = next(engine.devices.to_device(iter([batch]), model.devices))
        loss, slopes = sharp_gradients(engine, model, optimizer, on_device, recipe)
        return canonical(engine, model, slopes) | {"loss": np.array(loss)}

    whole, alone = batch_of(), dataclasses.replace(recipe, sam_group=0, batch=4)
    halves = [
        gradients(whole | {name: whole[name][rows] for name in ("images", "labels")}, alone)
        for rows in (slice(4), slice(4, 8))
    ]
    for name, found in gradients(whole, recipe).items():
        np.testing.assert_allclose(found, (halves[0][name] + halves[1][name]) / 2, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("train_only", ("head", "norm"))
def test_the_frozen_do_not_ascend(engine, train_only):
    """Nor count in the norm of the gradients; after a step they have their bits, and the trained have not."""
    recipe = recipe_of(**RATES | SAM, train_only=train_only)
    model = engine.build(MIXER, drawn(0), "float64", groups=recipe.groups)
    optimizer, before = engine.optim.create_optimizer(model, recipe), engine.weights.dump(model)
    batch = next(engine.devices.to_device(iter([batch_of()]), model.devices))
    slopes = engine.loop.gradients({"model": model}, batch, recipe)[1]
    found, chosen = canonical(engine, model, slopes), trained_names(recipe.groups, before)
    assert found.keys() == chosen
    norm = math.sqrt(sum((array**2).sum() for array in found.values()))
    numbers = recipe.update_numbers(0)
    with engine.optim.ascended(optimizer, slopes, numbers):
        within = engine.weights.dump(model)
    engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=0)
    after = engine.weights.dump(model)
    for name, array in before.items():
        if name in chosen:
            expected = array + numbers.rho * found[name] / (norm + 1e-12)
            np.testing.assert_allclose(within[name], expected, rtol=1e-13, atol=1e-14)
            assert not np.array_equal(after[name], array)
        else:
            assert within[name].tobytes() == after[name].tobytes() == array.tobytes()


def test_rho_of_zero_is_training_without(engine):
    """Bit for bit, whatever the other numbers of SAM are."""
    plain, off = trained(engine), trained(engine, rho=0.0, rho_min=0.1, gsam_alpha=0.6, sam_group=4)
    assert off[0] == plain[0] and all(off[1][name].tobytes() == plain[1][name].tobytes() for name in plain[1])


@pytest.mark.parametrize(
    "numbers",
    ({"optimizer": "adam", "ema": 0.5}, {"weight_decay": 0.1, "clip": 0.5, "momentum_rate": "inside"}),
    ids=str,
)
def test_the_update_is_that_of_the_new_gradients(engine, numbers):
    """Whatever the optimizer: SAM's step is a plain update by the gradients that it finds."""
    recipe = recipe_of(**RATES | SAM | numbers)
    found = engine.train(MIXER, drawn(0), [batch_of()], recipe, precision="float64")[1]
    model = engine.build(MIXER, drawn(0), "float64")
    optimizer = engine.optim.create_optimizer(model, recipe)
    batch = next(engine.devices.to_device(iter([batch_of()]), model.devices))
    slopes = canonical(engine, model, sharp_gradients(engine, model, optimizer, batch, recipe)[1])
    engine.apply(optimizer, recipe, 0, slopes)
    engine.optim.swap_average(optimizer)
    for name, array in engine.weights.dump(model).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, atol=1e-13)


# --- whole runs

GROUPS = ("--rho", 0.2, "--rho_min", 0.1, "--gsam_alpha", 0.4, "--sam_group", 4, "--steps", 4, "--eval_every", 2)


@pytest.fixture
def job(engine, server, tmp_path):
    """job("name", *flags): a run on two classes of images."""
    make_images(tmp_path)
    return functools.partial(Job, server(engine.name), tmp_path)


@pytest.mark.slow
def test_two_processes_train_as_one(engine, job, tmp_path):
    """Groups, micro-batches and mixup; with copies, and with shards where the engine has them."""
    job("alone", *GROUPS).finish()
    for flag in ((), ("--shard_parameters",)) if engine.name != "bit_tf2" else ((),):
        job(f"two{len(flag)}", *GROUPS, *flag, num_processes=2).finish()
        assert_close(tmp_path, f"two{len(flag)}", "alone", 1e-9)


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_it_would_have(job, tmp_path):
    """By Adam, of which only norms and head are trained, with a moving average."""
    flags = ("--recipe", "coyo_pretrain", "--ema", 0.5, "--train_only", "norm", "--rho", 0.2, "--steps", 12)
    job("alone", *flags).finish()
    with job("stopped", *flags) as stopped:
        stopped.wait_for_line(4)
        stopped.processes[0].send_signal(signal.SIGTERM)
        assert "to resume: " in stopped.ends()[0][1]
    job("stopped", *flags).finish()
    assert_close(tmp_path, "stopped", "alone", 1e-12)


@pytest.mark.slow
def test_bfloat16_follows_float64(job, tmp_path):
    """SAM of a run in bfloat16: its losses to the precision of that type, its weights in float32."""
    flags = (*GROUPS, "--batch_split", 1)
    job("exact", *flags).finish()
    job("rounded", *flags, "--precision", "bfloat16").finish()
    losses = [
        np.array([line["train/loss"] for line in metrics(tmp_path, name) if "train/loss" in line])
        for name in ("exact", "rounded")
    ]
    assert len(losses[1]) == 4 and 0 < np.abs(losses[1] - losses[0]).max() < 0.03 * losses[0].max()
    with np.load(tmp_path / "runs" / "rounded" / "weights.npz") as file:
        assert all(file[name].dtype == np.float32 and np.isfinite(file[name]).all() for name in file.files)
