"""SAM and GSAM in every engine: formulas, golden numbers of the original, and what users see of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from engines import recipe_of

from common.models import MixerConfig
from common.recipes import schedules

GOLDEN = Path(__file__).parent / "golden" / "gsam"
STEPS = ("vit_gsam", "vit_gsam_small_rho_softmax", "vit_sam")
MIXER = MixerConfig((8, 8), 16, 2, 16, 32, 5, image_size=(16, 16))


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


# --- up and back, by the formulas


def drawn(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in MIXER.parameter_shapes().items()}


def native(engine, model, optimizer, gradients: dict[str, np.ndarray], precision: str) -> dict:
    """Gradients {canonical name: array} as the engine's own, by its names."""
    if engine.name == "bit_pytorch":
        return {
            name: engine.weights.to_tensor(gradients[engine.weights.canonical_name(name, value)]).to(value.dtype)
            for name, value in model.named_parameters()
        }
    named = {path: gradients[engine.weights.canonical_name(path)] for path in optimizer.parameters}
    return {path: engine.cast(engine.raw(array), precision) for path, array in named.items()}


def canonical(engine, model, gradients: dict) -> dict[str, np.ndarray]:
    """{canonical name: array} of the engine's gradients."""
    if engine.name == "bit_pytorch":
        named = {name: engine.weights.canonical_name(name, value) for name, value in model.named_parameters()}
        return {named[name]: engine.weights.to_array(value) for name, value in gradients.items()}
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
