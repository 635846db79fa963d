"""Contrastive training with patches of a drawn size: one text tower, and an image tower at any size."""

import functools

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from test_flexivit_runs import train
from tiny_models import TEXTS, random_arrays

from common.config import EvaluateConfig
from common.data.batches import Static
from common.models.cards import Card
from common.recipes.task import Contrastive
from common.runs.jobs import evaluation
from common.system.errors import UserError
from common.weights.source import read_model

SIDES = (4, 8, 16)
CONFIG = TEXTS["siglip"].resizable(SIDES)


@functools.cache
def trajectory(name: str, batch_split: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """(losses, arrays) of one update at each size, in float64."""
    engine, rng = Engine(name), np.random.default_rng(0)
    recipe = recipe_of((0.01,) * 3, optimizer="adam", base_lr=0.01, task=Contrastive(), batch_split=batch_split)
    start = {key: value.astype(float) for key, value in random_arrays(CONFIG).items()}
    model = engine.build(CONFIG, start, "float64", groups=recipe.groups)
    optimizer, losses = engine.optim.create_optimizer(model, recipe), []
    batches = [
        {
            "images": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "tokens": rng.integers(1, 11, (8, 7), np.int32),
            "patch_size": Static((side, side)),
        }
        for side in SIDES
    ]  # fmt: skip
    for step, batch in enumerate(engine.devices.to_device(iter(batches), model.devices)):
        losses.append(float(engine.loop.train_step({"model": model}, optimizer, batch, recipe, step=step)["loss"]))
    return losses, engine.weights.dump(model)


CASES = [
    (INSTALLED[0], 2),
    *(pytest.param(name, split, marks=pytest.mark.slow) for name in INSTALLED for split in (1, 2)),
]


@pytest.mark.parametrize(("name", "batch_split"), CASES)
def test_engines_train_alike_at_every_size(name, batch_split):
    """Whole and in parts, whose patches have the size of the step."""
    losses, arrays = trajectory(name, batch_split)
    expected, others = trajectory(INSTALLED[0], 1)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert len({*np.round(losses, 6)}) == 3
    for key, array in arrays.items():
        np.testing.assert_allclose(array, others[key], rtol=1e-7, atol=1e-9, err_msg=key)


def test_a_run_leaves_a_flexible_tower(tmp_path):
    """Whose file is read back as such, and evaluated at another size."""
    flags = {"dataset": "captions-sample", "model": "SigLIP-T/8", "recipe": "siglip", "examples_per_class": None}
    losses = train(INSTALLED[0], tmp_path, steps=2, ema=0.0, val_fraction=0.05, batch_eval=97, **flags)
    assert len(losses) == 2 and np.isfinite(losses).all()
    path = tmp_path / "runs" / "a" / "weights.npz"
    found = read_model(path)
    assert found.config.image.kernel_size == (8, 8) and isinstance(found.card, Card)
    given = {"model": "SigLIP-T/8", "weights": str(path), "dataset": "cifar10-sample", "workers": 1}
    for side in (None, 4):
        job = evaluation(EvaluateConfig(**given, patch_size=side))
        assert job.model_config.image.patch_size == (side or 8,) * 2


def test_a_model_whose_texts_are_images_is_refused():
    with pytest.raises(UserError, match="sees texts as images with patches of one size; leave --patch_sizes out"):
        TEXTS["clippo"].resizable(SIDES)
    with pytest.raises(UserError, match="--patch_sizes is for ViTs"):
        TEXTS["lit"].resizable(SIDES)
