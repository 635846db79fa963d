"""Training in every engine: the golden trajectories of the original code in float64, and real images in float32.

A comparison is worth something only if it fails when one engine alone is wrong, so the last tests make each of them
wrong in turn.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from golden.golden_params import image
from test_models import config_of, golden_arrays

from common import weights
from common.data.batches import TrainBatches
from common.data.split import few_shot
from common.datasets import open_dataset
from common.models import PACKAGED_WEIGHTS, MixerConfig, ViTConfig, find_model, with_noise
from common.models.initial import initial_parameters
from common.recipes import schedules
from common.recipes.groups import create_groups
from common.recipes.task import Classification
from common.weights.adapt import adapt_head

GOLDEN = json.loads((Path(__file__).parent / "golden" / "train_tiny.json").read_text())
MIXUP_ORDER = [0, 7, 1, 6, 2, 5, 3, 4]  # the golden run pairs row i with 7 - i, ours pairs neighbours


def golden_batches(mixup: bool) -> list[dict[str, np.ndarray]]:
    order = MIXUP_ORDER if mixup else list(range(8))
    extra = {"mixup_weight": np.float64(0.3)} if mixup else {}
    return [
        {
            "images": image((8, 32, 32, 3), 1000 + step).astype(np.float32)[order],
            "labels": np.random.RandomState(2000 + step).randint(0, 10, 8).astype(np.int32)[order],
        }
        | extra
        for step in range(12)
    ]


SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("plain", 1), ("mixup", 1), ("batch_split2", 2))]


@pytest.mark.parametrize(
    "run, batch_split", [*SLOW, ("mixup", 2)]
)  # partners are in one part, so a split changes nothing
def test_float64_training_equals_the_original(engine, monkeypatch, run, batch_split):
    """12 updates of the original's training code: losses within 1e-8, parameters within 1e-9 of their norms."""
    engine.keep_images(monkeypatch)
    config = config_of(GOLDEN)
    arrays = golden_arrays(config)
    arrays = arrays | {name: np.zeros_like(arrays[name]) for name in ("head/kernel", "head/bias")}
    losses, trained = engine.train(
        config,
        arrays,
        golden_batches(run == "mixup"),
        recipe_of(GOLDEN["setup"]["lr"], batch_split=batch_split),
        precision="float64",
    )
    expected = GOLDEN["runs"][run]
    assert np.abs(np.array(losses) - expected["loss"]).max() < 1e-8
    from common.weights.spellings import bit

    for ours, theirs in bit.names(config).items():
        assert np.linalg.norm(trained[ours]) == pytest.approx(expected["final_param_l2"][theirs], rel=1e-9), theirs
    engine.forget_compiled()


# Two images a class, seen in every step: the loss falls by two thirds on a smooth path. On ever new images at a rate
# of 0.03, float32 and float64 of one and the same engine part by 2e-3 within these 20 steps.
STEPS, WARMUP, BASE_LR, BATCH = 20, 2, 0.003, 20


def real_setup() -> tuple:
    """(config, arrays, batches, recipe): the embedded model on the embedded sample."""
    model = find_model("BiT-T-R26x0.5")
    config = model.config(10)
    arrays = adapt_head(weights.read_weights(PACKAGED_WEIGHTS / model.file, model.config()), 10)
    lrs = tuple(BASE_LR * min(1.0, step / WARMUP) for step in range(STEPS))
    recipe = recipe_of(lrs, batch=BATCH, batch_eval=BATCH, resize=36)
    sample = open_dataset("cifar10-sample")
    batches = TrainBatches(few_shot(sample.splits["train"], sample.class_names, 2), recipe, seed=0)
    return config, arrays, [made(batches, step) for step in range(STEPS)], recipe


def made(batches: TrainBatches, step: int) -> dict[str, np.ndarray]:
    batch, jobs = batches.jobs(step)
    for job in jobs:
        job()
    return batch


def real_losses(name: str, precision: str, change: str = "nothing", monkeypatch=None) -> np.ndarray:
    """Losses of one engine, perhaps made wrong."""
    engine = Engine(name)
    config, arrays, batches, recipe = real_setup()
    if change == "epsilon":
        config = dataclasses.replace(config, group_norm_epsilon=1e-6)
    elif change == "flip":
        batches = [batch | {"images": np.ascontiguousarray(batch["images"][:, :, ::-1])} for batch in batches]
    elif change == "momentum":
        recipe = dataclasses.replace(recipe, momentum_rate="inside")  # Keras's
    elif change == "padding":  # with -infinity, each framework's default
        config = dataclasses.replace(config, max_pool_padding="lowest")
    engine.forget_compiled()
    losses, _ = engine.train(config, arrays, batches, recipe, precision=precision)
    if monkeypatch:
        monkeypatch.undo()
    engine.forget_compiled()
    return np.array(losses)


@functools.cache
def right_losses(name: str, precision: str) -> np.ndarray:
    """Losses of one engine as it is."""
    return real_losses(name, precision)


@pytest.fixture
def reference() -> Callable[[str], np.ndarray]:
    """reference("float32"): the right losses, PyTorch's."""
    if "bit_pytorch" not in INSTALLED:
        pytest.skip("the reference engine is not installed")
    return functools.partial(right_losses, "bit_pytorch")


@pytest.mark.parametrize(
    ("precision", "bound"), [("float32", 1e-4), pytest.param("float64", 1e-8, marks=pytest.mark.slow)]
)
def test_real_images_give_the_same_losses(engine, reference, precision, bound):
    """20 steps, in which the loss falls by at least a fifth. In float64, other families and the golden runs are quick."""
    expected = reference(precision)
    assert expected[-3:].mean() < 0.8 * expected[:3].mean()
    assert np.abs(right_losses(engine.name, precision) - expected).max() < bound


@pytest.mark.slow
@pytest.mark.parametrize("change", ("flip", "momentum", "padding"))
def test_float32_sees_when_one_engine_is_wrong(engine, reference, monkeypatch, change):
    found = real_losses(engine.name, "float32", change, monkeypatch)
    assert np.abs(found - reference("float32")).max() > 1e-3


@pytest.mark.slow  # its quick sibling: tests/test_golden_families.py::test_a_wrong_setting_is_seen
def test_float64_sees_a_wrong_epsilon(engine, reference):
    """An epsilon of 1e-6 instead of 1e-5 may hide in float32's rounding, as it does in the original's: not in float64."""
    found = real_losses(engine.name, "float64", "epsilon")
    assert np.abs(found - reference("float64")).max() > 1e-6


# --- from scratch, by the recipes of ViT and Mixer, in everything that they add

FAMILIES = {
    "ViT": (
        ViTConfig(
            (8, 8), 64, 2, 2, 128, 10, image_size=(32, 32), pooling="gap", positions="sincos2d", cls_position=False
        ),
        {"optimizer": "adam", "clip": 1.0, "mixup": 0.2, "weight_decay": 0.02, "label_smoothing": 0.1, "ema": 0.8},
    ),
    "Mixer": (
        MixerConfig((8, 8), 32, 2, 16, 64, 10, image_size=(32, 32)),
        {"optimizer": "adam", "clip": 1.0, "loss": "sigmoid", "weight_decay": 0.02, "stochastic_depth": 0.2},
    ),
}
SCRATCH_LR = 0.003
WRONG = {  # what an engine may get wrong, and the family that shows it
    "decay times rate": ("ViT", {"decay": "decoupled"}),
    "decay of everything": ("Mixer", {"groups": create_groups(decay_mask="all")}),
    "epsilon before the bias": ("Mixer", {"epsilon_hat": True}),
    "no clipping": ("Mixer", {"clip": 0.0}),
    "other smoothing": ("ViT", {"task": Classification(label_smoothing=0.11)}),
}


@functools.cache
def from_scratch(name: str, family: str, precision: str, changes: tuple = ()) -> np.ndarray:
    """Losses of 20 steps of one engine on 20 real images, perhaps by another recipe than that of the batches."""
    engine, (config, numbers) = Engine(name), FAMILIES[family]
    lrs = schedules.cosine(2 * STEPS, 3, SCRATCH_LR)[:STEPS]
    recipe = recipe_of(lrs, batch=BATCH, base_lr=SCRATCH_LR, decay="independent", **numbers)
    config = with_noise(config, 0.0, recipe.stochastic_depth)
    sample = open_dataset("cifar10-sample")
    batches = TrainBatches(few_shot(sample.splits["train"], sample.class_names, 2), recipe, seed=0, config=config)
    batches = [made(batches, step) for step in range(STEPS)]
    recipe = dataclasses.replace(recipe, **dict(changes))
    losses, trained = engine.train(config, initial_parameters(0, config), batches, recipe, precision=precision)
    return np.array([*losses, *(np.linalg.norm(trained[name]) for name in sorted(trained))])


@pytest.mark.parametrize(
    ("precision", "bound"), [pytest.param("float32", 1e-4, marks=pytest.mark.slow), ("float64", 1e-8)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_from_scratch_gives_the_same_losses(engine, family, precision, bound):
    """20 steps, in which the loss falls by at least a fifth. In float32, that of the embedded model above is quick.

    In float64 the norms of the parameters, in one case of their moving average, are held to the same. In float32 Adam
    makes steps of the rounding that is the gradient of biases ahead of a norm.
    """
    found, expected = (from_scratch(name, family, precision) for name in (engine.name, "bit_pytorch"))
    assert expected[:STEPS][-3:].mean() < 0.8 * expected[:3].mean()
    count = None if precision == "float64" else STEPS
    np.testing.assert_allclose(found[:count], expected[:count], rtol=0, atol=bound)


@pytest.mark.parametrize("change", WRONG)
def test_float64_sees_a_wrong_update(change):
    """One engine by another recipe: far beyond the bound of 1e-8, so each engine's share in the test above counts."""
    family, changes = WRONG[change]
    right = from_scratch("bit_pytorch", family, "float64")
    wrong = from_scratch("bit_pytorch", family, "float64", tuple(changes.items()))
    assert np.abs(wrong - right).max() > 1e-6
