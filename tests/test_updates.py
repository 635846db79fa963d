"""Loss, clipping, optimizer and moving average of every engine: golden runs of the originals, formulas and peers."""

import importlib
import json
import math
import re

import golden_cases
import numpy as np
import pytest
from engines import INSTALLED, Engine, float64, recipe_of
from golden.golden_params import image

from common.flags import choices
from common.models import MixerConfig, ViTConfig
from common.recipes import schedules
from common.recipes.groups import Group, create_groups
from common.recipes.moments import state_shapes
from common.recipes.recipe import Recipe, nearest_bfloat16
from common.recipes.schedules import Schedule
from common.recipes.task import Classification
from common.system.errors import UserError


def single(values):
    """float64 values rounded to float32, as the originals round some numbers."""
    return np.float32(values).astype(float)


BIG_VISION = {"decay": "independent", "clip": 1.0, "weight_decay": 0.01}
RECIPES = {  # what the cases state, as a Recipe
    "bv_bit_momentum": {"base_lr": 0.1, **BIG_VISION},
    "bv_mixer_sigmoid_linear": {"optimizer": "adam", "loss": "sigmoid", "base_lr": 0.01, **BIG_VISION},
    "bv_vit_s16recipe_adam_cosine": {"optimizer": "adam", "base_lr": 0.01, **BIG_VISION},
    "coyo_adamw_bce_linear_multihot": {
        "optimizer": "adam", "loss": "sigmoid", "weight_decay": 0.1, "decay": "decoupled", "decay_mask": "all",
        "beta1": single(0.9), "beta2": single(0.999), "epsilon": 1e-7, "epsilon_hat": True, "clip": 1.0, "base_lr": 6e-4,
    },
    "vit_jax_finetune_sgd_accum2": {"clip": 1.0, "base_lr": 0.03, "batch_split": 2},
}  # fmt: skip


def golden_recipe(name: str, **changes):
    base_lr = RECIPES[name]["base_lr"]
    if name.startswith("coyo"):
        lrs = schedules.linear(10, 2, base_lr, 1e-5 / base_lr)
    elif name.startswith("bv"):  # the schedule's factor is float32
        lrs = schedules.linear(10, 2, 1.0, 1e-5) if "linear" in name else schedules.cosine(10, 2, 1.0)
        lrs = base_lr * single(lrs)
    else:
        lrs = single(schedules.cosine(10, 2, base_lr))
    return recipe_of(map(float, lrs), **({"batch": 4, "batch_eval": 4} | RECIPES[name] | changes))


def golden_batches(golden: dict) -> list[dict[str, np.ndarray]]:
    return [
        {
            "images": image(golden["input"]["shape"], seed).astype(np.float32),
            "labels": golden_labels(golden, 1000 + seed),
        }
        for seed in golden["input"]["seeds_per_step"]
    ]


def golden_labels(golden: dict, seed: int) -> np.ndarray:
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, 10, 4)
    if "multi-hot" not in golden["labels"]:
        return labels.astype(np.int32)
    return np.maximum(np.eye(10)[labels], np.eye(10)[rng.randint(0, 10, 4)]).astype(np.float32)


def golden_run(engine, monkeypatch, name: str, **changes) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(losses, gradient norms, trained arrays) of five float64 updates."""
    engine.keep_images(monkeypatch)
    case, recipe = golden_cases.case(f"train_steps/{name}"), golden_recipe(name, **changes)
    model = engine.build(case.config, case.arrays(), "float64")
    optimizer = engine.optim.create_optimizer(model, recipe)
    losses, norms = [], []
    for step, batch in enumerate(engine.devices.to_device(iter(golden_batches(case.golden)), model.devices)):
        norms.append(engine.gradient_norm(model, batch, recipe))
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
    engine.forget_compiled()
    return np.array(losses), np.array(norms), engine.weights.dump(model)


@pytest.mark.parametrize("name", RECIPES)
def test_float64_updates_equal_the_originals(engine, monkeypatch, name):
    """Losses within 1e-8, gradient norms and every parameter within 1e-9."""
    case = golden_cases.case(f"train_steps/{name}")
    losses, norms, trained = golden_run(engine, monkeypatch, name)
    np.testing.assert_allclose(losses, case.expected("loss"), rtol=0, atol=1e-8)
    np.testing.assert_allclose(norms, case.expected("grad_global_norm"), rtol=1e-9)
    initial = case.arrays()
    for ours, theirs in case.names.items():
        expected, found = case.golden["final_params"][theirs], trained[ours]
        moved = np.linalg.norm(found - initial[ours].astype(np.float64))
        assert np.linalg.norm(found) == pytest.approx(expected["l2"], rel=1e-9), theirs
        # Where the gradient is nothing but rounding (biases ahead of a LayerNorm), so is what Adam makes of it: 1e-11.
        assert moved == pytest.approx(expected["delta_l2"], rel=1e-7, abs=1e-10), theirs
        assert found.sum() == pytest.approx(expected["sum"], rel=1e-9, abs=1e-8), theirs
        np.testing.assert_allclose(found.ravel()[:4], expected["first4"], rtol=1e-9, atol=1e-11, err_msg=theirs)


MIXER = MixerConfig((8, 8), 16, 2, 16, 32, 5, image_size=(16, 16))  # of a shape that builds at once
LAYERS = (*create_groups(), Group("stem/.*", rate=0.25), Group("blocks/.*", rate=0.75), Group("blocks/0/.*", rate=0.5))
BOUNDED = (*create_groups(), Group("norm/.*", bounds=(-0.5, 0.75)))
UPDATES = {
    "sgd": {},
    "sgd decayed by the gradient": {"weight_decay": 0.1},
    "sgd decayed independently": {"weight_decay": 0.1, "decay": "independent", "first_moment": "bfloat16"},
    "adam clipped": {"optimizer": "adam", "clip": 0.5},
    "adam unclipped": {"optimizer": "adam", "clip": 1e6},
    "adam in bfloat16": {"optimizer": "adam", "first_moment": "bfloat16", "decay": "independent", "weight_decay": 0.1},
    "adamw": {"optimizer": "adam", "decay": "decoupled", "weight_decay": 0.1},
    "adamw of everything": {"optimizer": "adam", "decay": "decoupled", "weight_decay": 0.1, "decay_mask": "all"},
    "keras": {"optimizer": "adam", "epsilon": 1e-3, "epsilon_hat": True, "beta1": 0.8, "beta2": 0.99},
    "rate inside the momentum": {"momentum_rate": "inside"},
    "rate inside a momentum in bfloat16": {
        "momentum_rate": "inside", "first_moment": "bfloat16", "decay": "gradient", "weight_decay": 0.1, "clip": 0.5,
    },
    "sgd in bfloat16": {"first_moment": "bfloat16", "momentum": 0.93},
    "adamw by layers": {"optimizer": "adam", "decay": "decoupled", "weight_decay": 0.1, "clip": 0.5, "groups": LAYERS},
    "rate inside the momentum by layers": {"momentum_rate": "inside", "weight_decay": 0.1, "groups": LAYERS},
    "average": {"optimizer": "adam", "ema": 0.3},
    "average, faster at first": {"ema": 0.9999},
    "within bounds": {"optimizer": "adam", "ema": 0.3, "groups": BOUNDED},
}  # fmt: skip


def update_case(numbers: dict):
    """(recipe, arrays, gradients of five steps)."""
    recipe = recipe_of(map(float, single([0.0, 0.02, 0.05, 0.0, 0.01])), base_lr=0.05, **numbers)
    rng = np.random.default_rng(0)
    drawn = lambda: {name: rng.standard_normal(shape) for name, shape in MIXER.parameter_shapes().items()}
    return recipe, drawn(), [drawn() for _ in recipe.lrs]


def applied(engine, numbers: dict, precision: str) -> tuple[dict, dict, dict]:
    """(parameters, averaged parameters, state) after five updates by the engine."""
    recipe, arrays, gradients = update_case(numbers)
    model = engine.build(MIXER, arrays, precision)
    optimizer = engine.optim.create_optimizer(model, recipe)
    for step, gradient in enumerate(gradients):
        engine.apply(optimizer, recipe, step, gradient)
    raw, state = engine.weights.dump(model), engine.weights.dump_optimizer(model, optimizer)
    engine.optim.swap_average(optimizer)
    return raw, engine.weights.dump(model), state


def by_formula(numbers: dict, dtype: np.dtype) -> tuple[dict, dict]:
    """(parameters, averaged parameters) after five updates as the papers write them, one scalar after the other."""
    recipe, w, gradients = update_case(numbers)
    w = {name: array.astype(dtype) for name, array in w.items()}
    average, rates = dict(w), dict.fromkeys(w, 1)
    if recipe.groups == LAYERS:
        rates = {
            name: {"stem": 0.25, "blocks/0": 0.5, "blocks/1": 0.75}.get(name[: 8 if name[0] == "b" else 4], 1)
            for name in w
        }
    first, second = ({name: np.zeros_like(array) for name, array in w.items()} for _ in range(2))
    rounded = rounded_to_bfloat16 if recipe.first_moment == "bfloat16" else lambda values: values
    inside = recipe.momentum_rate == "inside"
    for t, (scheduled, g) in enumerate(zip(recipe.lrs, gradients), 1):
        norm = math.sqrt(sum((array**2).sum() for array in g.values()))
        factor = recipe.clip / norm if 0 < recipe.clip < norm else 1
        for name in w:
            d, moved, lr = (g[name] * factor).astype(dtype), 0, scheduled * rates[name]
            decayed = (
                recipe.weight_decay
                * w[name]
                * (name.endswith("/kernel") or recipe.groups == create_groups(decay_mask="all"))
            )
            if recipe.decay == "gradient":
                d = d + decayed
            else:
                moved = lr * decayed * {"decoupled": 1, "independent": 1 / recipe.base_lr}[recipe.decay]
            if recipe.optimizer == "sgd":
                first[name] = rounded(rounded(recipe.momentum) * first[name]) + d * (lr if inside else 1)
                moved = moved + first[name] * (1 if inside else lr)
            else:
                first[name] = rounded(rounded(recipe.beta1) * first[name]) + (1 - recipe.beta1) * d
                second[name] = recipe.beta2 * second[name] + (1 - recipe.beta2) * d**2
                c1, c2 = 1 - recipe.beta1**t, 1 - recipe.beta2**t
                if recipe.epsilon_hat:
                    u = np.sqrt(c2) / c1 * first[name] / (np.sqrt(second[name]) + recipe.epsilon)
                else:
                    u = first[name] / c1 / (np.sqrt(second[name] / c2) + recipe.epsilon)
                moved = moved + lr * u
            first[name] = rounded(first[name])
            w[name] = (w[name] - moved).astype(dtype)
            if recipe.groups == BOUNDED and name.startswith("norm/"):
                assert t > 1 or w[name].min() < -0.5 or w[name].max() > 0.75
                w[name] = np.clip(w[name], -0.5, 0.75)
            decay = min(recipe.ema, (1 + t) / (10 + t))
            average[name] = decay * average[name] + (1 - decay) * w[name]
    return w, average


def rounded_to_bfloat16(values: np.ndarray | float) -> np.ndarray:
    """Values, by way of float32 as in every framework, to their nearest neighbours of 8 significant bits, ties to even."""
    values = np.asarray(values)
    bits = values.astype(np.float32).view(np.uint32)
    dtype = values.dtype if values.ndim else np.float64
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(dtype)


@pytest.mark.parametrize("name", UPDATES)
def test_updates_follow_the_formula(engine, name):
    w, average = by_formula(UPDATES[name], np.float64)
    found, averaged, _ = applied(engine, UPDATES[name], "float64")
    for parameter in w:
        np.testing.assert_allclose(found[parameter], w[parameter], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(averaged[parameter], average[parameter], rtol=1e-12, atol=1e-13)


@pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="its kernel")
@pytest.mark.parametrize("name", ("adamw", "keras"))
def test_updates_follow_the_formula_where_pytorch_has_no_fused_kernel(monkeypatch, name):
    engine = Engine("bit_pytorch")
    monkeypatch.setattr(engine.optim, "FUSED", ())
    w, _ = by_formula(UPDATES[name], np.float64)
    found, _, _ = applied(engine, UPDATES[name], "float64")
    for parameter in w:
        np.testing.assert_allclose(found[parameter], w[parameter], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in UPDATES if "bfloat16" in UPDATES[name].values()])
def test_a_first_moment_in_bfloat16(engine, name):
    """Kept and multiplied in bfloat16, used unrounded: as the formula says, and otherwise than in float32."""
    w, _ = by_formula(UPDATES[name], np.float32)
    precise, _ = by_formula(UPDATES[name] | {"first_moment": "float32"}, np.float32)
    found, _, state = applied(engine, UPDATES[name], "float32")
    for parameter in w:
        np.testing.assert_allclose(found[parameter], w[parameter], rtol=1e-5, atol=1e-5)
        kept = state[f"first/{parameter}"]
        assert kept.dtype == np.float32 and np.array_equal(kept, rounded_to_bfloat16(kept))
    assert max(np.abs(precise[parameter] - w[parameter]).max() for parameter in w) > 1e-4


VIT = ViTConfig((8, 8), 64, 1, 2, 64, 5, (16, 16))  # heads of 32, so that attention has two long axes
AXES = {  # pattern of names -> shape with heads on an axis of their own, its longest axis, the second longest
    r".*attn/(query|key|value)/kernel": ((64, 2, 32), 0, 2),
    r".*attn/out/kernel": ((2, 32, 64), 2, 1),
    r".*mlp/fc[12]/kernel": ((64, 64), 1, 0),
}
ADAFACTOR = {
    "optimizer": "adafactor",
    "decay": "independent",
    "weight_decay": 0.1,
    "beta2": 0.6,
    "clip": 5.0,
    "ema": 0.3,
}


def adafactor_case(numbers: dict):
    """(recipe, arrays, gradients of five steps)."""
    recipe = recipe_of(map(float, single([0.0, 0.02, 0.05, 0.0, 0.01])), base_lr=0.05, **numbers)
    rng = np.random.default_rng(0)
    drawn = lambda: {name: rng.standard_normal(shape) for name, shape in VIT.parameter_shapes().items()}
    return recipe, drawn(), [drawn() for _ in recipe.lrs]


def by_adafactor(numbers: dict, steps: int = 5) -> tuple[dict[str, np.ndarray], dict]:
    """(parameters, second moments) after so many updates as `optax.py` of big_vision makes them, one after the other."""
    recipe, w, gradients = adafactor_case(numbers)
    rounded = rounded_to_bfloat16 if recipe.first_moment == "bfloat16" else lambda values: values
    first, kept = {name: np.zeros_like(array) for name, array in w.items()}, {}
    for t, (lr, g) in enumerate(zip(recipe.lrs[:steps], gradients), 1):
        decay = min(np.float32(recipe.beta2), 1 - np.float32(t) ** np.float32(-0.8))
        mix = lambda place, new, decay=decay: kept.update(
            {place: float(decay) * kept.get(place, 0) + float(1 - decay) * new}
        )
        norm = math.sqrt(sum((array**2).sum() for array in g.values()))
        for name in w:
            d = g[name] * min(1, recipe.clip / norm)
            shape, longest, second = next(
                (row for pattern, row in AXES.items() if re.fullmatch(pattern, name)), (d.shape, None, None)
            )
            squares = (d**2 + 1e-30).reshape(shape)
            if longest is None:
                mix(name, squares)
                moment = kept[name]
            else:
                mix((name, "rows"), squares.mean(longest, keepdims=True))
                mix((name, "columns"), squares.mean(second, keepdims=True))
                rows = kept[name, "rows"]
                moment = rows / rows.mean(second, keepdims=True) * kept[name, "columns"]
            u = d / np.sqrt(moment).reshape(d.shape)
            first[name] = rounded(rounded(recipe.beta1) * first[name]) + (1 - recipe.beta1) * u
            decayed = recipe.weight_decay * w[name] * name.endswith("/kernel")
            w[name] = w[name] - lr * first[name] - lr / recipe.base_lr * decayed
            first[name] = rounded(first[name])
    return w, kept


@pytest.mark.parametrize("changes", [{}, {"first_moment": "bfloat16"}], ids=["float64", "bfloat16"])
def test_adafactor_follows_the_formula_and_its_state_comes_back(engine, changes):
    """Also where the last two updates are those of a new optimizer that was given the state of the old one."""
    (w, _), (recipe, arrays, gradients) = by_adafactor(ADAFACTOR | changes), adafactor_case(ADAFACTOR | changes)
    model = engine.build(VIT, arrays, "float64")
    optimizer = engine.optim.create_optimizer(model, recipe)
    for step, gradient in enumerate(gradients):
        if step == 3:
            state = engine.weights.dump_optimizer(model, optimizer)
            optimizer = engine.optim.create_optimizer(model, recipe)
            engine.weights.load_optimizer(model, optimizer, state)
        engine.apply(optimizer, recipe, step, gradient)
    found, shapes = engine.weights.dump(model), VIT.parameter_shapes()
    for parameter in w:
        np.testing.assert_allclose(found[parameter], w[parameter], rtol=1e-12, atol=1e-13, err_msg=parameter)
    expected = state_shapes("adafactor", True, shapes, shapes, VIT.shapes_by_head())
    assert {name: array.shape for name, array in state.items()} == expected
    for place, value in by_adafactor(ADAFACTOR | changes, steps=3)[1].items():  # what another engine goes on from
        name, part = (place, "second") if isinstance(place, str) else place
        np.testing.assert_allclose(state[f"{part}/{name}"], value.reshape(expected[f"{part}/{name}"]), rtol=1e-12)
    assert (
        expected["rows/blocks/0/attn/query/kernel"] == (2, 32) and "second/blocks/0/attn/query/kernel" not in expected
    )
    assert expected["columns/blocks/0/attn/out/kernel"] == (2, 64) and expected["second/head/kernel"] == (64, 5)


def test_a_group_follows_a_schedule_of_its_own():
    """As if the whole recipe followed it, and its own rate besides; a recipe.json says so."""
    own = Schedule("linear", 2)
    given = (*create_groups(), Group("stem/.*", schedule=own), Group("stem/bias", rate=0.5))
    numbers = {"optimizer": "adam", "weight_decay": 0.1, "decay": "independent", "base_lr": 0.4}
    recipe = recipe_of(schedules.cosine(6, 1, 0.4), groups=given, **numbers)
    alone = recipe_of(schedules.linear(6, 2, 0.4), **numbers)
    kernel, bias, head = recipe.parts(("stem/kernel", "stem/bias", "head/kernel"))
    for step in range(6):
        found = recipe.update_numbers(step)
        assert recipe.numbers_of(kernel, found) == alone.update_numbers(step)
        assert recipe.numbers_of(bias, found).rate == alone.update_numbers(step).rate / 2
        assert recipe.numbers_of(head, found) == found
    assert json.loads(json.dumps(recipe.record()))["groups"][1] == {
        "pattern": "stem/.*", "schedule": {"kind": "linear", "warmup_steps": 2},
    }  # fmt: skip
    with pytest.raises(UserError, match="'cosinus', expected one of cosine, linear"):
        Schedule("cosinus")


def test_a_state_comes_back_as_it_was_dumped(engine):
    numbers = {"optimizer": "adam", "first_moment": "bfloat16", "ema": 0.9}
    raw, _, state = applied(engine, numbers, "float32")
    recipe, _, gradients = update_case(numbers)
    model = engine.build(MIXER, raw)
    optimizer = engine.optim.create_optimizer(model, recipe)
    engine.weights.load_optimizer(model, optimizer, state)
    again = engine.weights.dump_optimizer(model, optimizer)
    assert {name.partition("/")[0] for name in state} == {"first", "second", "average"}
    assert again.keys() == state.keys() and all(again[name].tobytes() == state[name].tobytes() for name in state)
    engine.apply(optimizer, recipe, 4, gradients[0])  # into memory of its own
    assert all(again[name].tobytes() == state[name].tobytes() for name in state)


@pytest.mark.skipif("bit_pytorch" not in INSTALLED, reason="the peer is torch's")
def test_decoupled_decay_is_that_of_torch(engine):
    """torch.optim.AdamW, clipped by torch's own function, whose norm has 1e-6 added."""
    import torch

    recipe, arrays, gradients = update_case({"decay_mask": "all"})
    w = {name: torch.tensor(array) for name, array in arrays.items()}
    peer = torch.optim.AdamW(w.values(), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for lr, gradient in zip(recipe.lrs, gradients):
        peer.param_groups[0]["lr"] = lr
        for name, value in w.items():
            value.grad = torch.tensor(gradient[name])
        torch.nn.utils.clip_grad_norm_(w.values(), 0.5)
        peer.step()
    found, _, _ = applied(engine, UPDATES["adamw of everything"] | {"clip": 0.5}, "float64")
    for name, value in w.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.skipif("bit_jax" not in INSTALLED, reason="the peer is optax's")
@pytest.mark.parametrize("name", ("adamw", "sgd decayed independently", "adam in bfloat16"))
def test_updates_are_those_of_optax(engine, name):
    """optax.adamw, and the chains of big_vision, all behind optax.clip_by_global_norm."""
    import jax
    import optax

    recipe, w, gradients = update_case(UPDATES[name])
    mask = {parameter: parameter.endswith("/kernel") for parameter in w}
    lr = lambda count: jax.numpy.asarray(recipe.lrs)[count]
    if name == "adamw":
        peer = optax.adamw(lr, weight_decay=0.1, mask=mask)
    else:
        bfloat16 = jax.numpy.bfloat16
        momentum = optax.trace(0.9, accumulator_dtype=bfloat16)
        peer = optax.chain(
            momentum if name.startswith("sgd") else optax.scale_by_adam(mu_dtype=bfloat16),
            optax.scale(0.05), optax.add_decayed_weights(0.1, mask),
            optax.scale_by_schedule(lambda count: lr(count) / 0.05), optax.scale(-1),
        )  # fmt: skip
    peer = optax.chain(optax.clip_by_global_norm(0.5), peer)
    jax.config.update("jax_enable_x64", True)
    w = {parameter: jax.numpy.asarray(array) for parameter, array in w.items()}
    state = peer.init(w)
    for gradient in gradients:
        updates, state = peer.update(gradient, state, w)
        w = optax.apply_updates(w, updates)
    found, _, _ = applied(engine, UPDATES[name] | {"clip": 0.5}, "float64")
    for parameter in w:
        np.testing.assert_allclose(found[parameter], w[parameter], rtol=1e-13, atol=1e-14)


@pytest.mark.skipif("bit_tf2" not in INSTALLED, reason="the peer is Keras's")
def test_a_rate_inside_the_momentum_is_that_of_keras(engine):
    """keras.optimizers.SGD, as in `configs/trainer/vit_l16_i1k_downstream.yaml` of coyo-vit."""
    Engine("bit_tf2")
    import keras

    recipe, arrays, gradients = update_case({})
    w = {name: keras.Variable(array, dtype="float64") for name, array in arrays.items()}
    peer = keras.optimizers.SGD(0.0, momentum=np.float64(0.9), global_clipnorm=0.5)
    for lr, gradient in zip(recipe.lrs, gradients):
        peer.learning_rate = lr
        peer.apply_gradients((gradient[name], w[name]) for name in w)
    found, _, _ = applied(engine, UPDATES["rate inside the momentum"] | {"clip": 0.5}, "float64")
    for name in w:
        np.testing.assert_allclose(found[name], w[name].numpy(), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "numbers",
    [{name: "softmx"} for name in (*choices(Recipe), *choices(Classification))]
    + [{"momentum_rate": "inside", "optimizer": "adam"}],
)
def test_unknown_choices_are_refused(numbers):
    with pytest.raises(UserError, match=f"A recipe's {next(iter(numbers))} is .*, expected "):
        recipe_of((0.1,), **numbers)


def test_numbers_in_bfloat16():
    numbers = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    found = [nearest_bfloat16(float(number)) for number in numbers]
    np.testing.assert_array_equal(found, rounded_to_bfloat16(numbers))
    assert nearest_bfloat16(0.9) == 0.8984375 and nearest_bfloat16(0.0) == 0.0


LOGITS = np.random.default_rng(1).standard_normal((4, 5)) * 3
CLASSES = np.array([0, 4, 2, 2], np.int32)
SEVERAL = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], np.float32)


PADDED = np.array([[1, 3, -1, -1, -1, -1, -1, -1], [0] + [-1] * 7, [-1] * 8, [4, 3, 2, 1, 0, 2, 2, -1]], np.int32)


@pytest.mark.parametrize("precision", ("float32", "float64"))
@pytest.mark.parametrize("loss", ("softmax", "sigmoid"))
def test_numbers_of_classes_give_what_dense_labels_give(engine, loss, precision):
    """Bit for bit: losses, also with smoothing, and what evaluation counts, where 2 classes are named twice."""
    with float64(engine):
        logits, dense = engine.raw(LOGITS.astype(precision)), SEVERAL.astype(precision)
        padded = engine.raw(PADDED)
        padded = padded.long() if engine.name == "bit_pytorch" else padded
        for smoothing in (0.0, 0.1):
            of_dense, of_padded = (
                engine.array(engine.losses.cross_entropy(logits, labels, loss, smoothing))
                for labels in (engine.raw(dense), padded)
            )
            np.testing.assert_array_equal(of_padded, of_dense)
        score = importlib.import_module(f"{engine.name}.outputs").score
        mask = engine.raw(np.array([True, True, True, False]))
        found, expected = (
            score(logits, {"labels": labels, "mask": mask}, loss) for labels in (padded, engine.raw(dense))
        )
        for name, column in expected.items():
            np.testing.assert_array_equal(engine.array(found[name]), engine.array(column))
        assert engine.array(found["mask"]).tolist() == [True, True, False, False]


@pytest.mark.parametrize("smoothing", (0.0, 0.1))
@pytest.mark.parametrize("labels", (CLASSES, SEVERAL), ids=("classes", "several"))
@pytest.mark.parametrize("loss", ("softmax", "sigmoid"))
def test_losses(engine, loss, labels, smoothing):
    targets = np.eye(5)[labels] if labels.ndim == 1 else labels
    if loss == "softmax":
        targets = (1 - smoothing) * targets + smoothing / 5
        expected = -(targets * (LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True)))).sum(1)
    else:
        targets, right = (1 - smoothing) * targets + smoothing / 2, 1 / (1 + np.exp(-LOGITS))
        expected = -(targets * np.log(right) + (1 - targets) * np.log(1 - right)).sum(1)
    raw = engine.raw(labels)
    raw = raw.long() if engine.name == "bit_pytorch" and labels.ndim == 1 else raw
    found = engine.array(engine.losses.cross_entropy(engine.raw(LOGITS.astype(np.float32)), raw, loss, smoothing))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
