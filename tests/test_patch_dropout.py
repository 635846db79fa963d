"""Patch dropout (FLIP, https://arxiv.org/abs/2212.00794): drawn with the batch, the same in every engine, as open_clip has it."""

import dataclasses

import numpy as np
import pytest
from engines import INSTALLED, Engine, recipe_of
from jobs import metrics
from test_image_text_runs import FLAGS, assert_same
from test_noise import HYBRID, MIXER, RECIPE, VIT, parameters, split

from common.config import TrainConfig
from common.data.batches import TrainBatches
from common.models import ResNetConfig, TextConfig, TwoTowersConfig, ViTConfig, num_kept, with_noise
from common.recipes.create import create_recipe
from common.recipes.groups import Group, create_groups
from common.recipes.task import Contrastive
from common.runs.run import Run
from common.system.errors import UserError

IMAGE = ViTConfig((4, 4), 16, 2, 2, 32, None, (16, 16), pooling="map")
TOWERS = TwoTowersConfig(IMAGE, TextConfig(32, 8, 16, 1, 2, 32, 16))
PLAIN = dataclasses.replace(RECIPE, dropout=0.0, stochastic_depth=0.0)
WITHOUT_B = (*create_groups(), Group("b", trained=False))  # which the softmax loss does not depend on
PATCHES = dataclasses.replace(VIT, patch_size=(4, 4), dropout=0.0)  # 16 of them, and a class token


def plan(step: int = 2, process: int = 0, num_processes: int = 1, **changes) -> dict[str, np.ndarray]:
    recipe = dataclasses.replace(PLAIN, **{"patch_dropout": 0.5} | changes)
    return TrainBatches(split(), recipe, 7, process, num_processes, config=TOWERS).plan(step)


def kept(rate: float, rows: int) -> np.ndarray:
    return plan(0, batch=rows, patch_dropout=rate)["kept_patches"]


def test_patches_are_a_function_of_seed_and_step():
    first = plan()["kept_patches"]
    assert first.dtype == np.int32 and first.shape == (8, 8) and (np.diff(first, axis=1) > 0).all()
    assert (first == plan()["kept_patches"]).all() and (first != plan(3)["kept_patches"]).any()
    assert len({tuple(row) for row in first}) == 8 and first.min() >= 0 and first.max() <= 15
    parts = [plan(2, process, 4)["kept_patches"] for process in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), first)


def test_patches_leave_the_rest_of_the_batch_as_it_is():
    some, whole = plan(stochastic_depth=0.0), plan(patch_dropout=0.0)
    assert set(some) - set(whole) == {"kept_patches"} and all((some[name] == whole[name]).all() for name in whole)


def test_every_patch_is_kept_as_often():
    counts = np.bincount(kept(0.75, 4000).ravel(), minlength=16) / 4000
    np.testing.assert_allclose(counts, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 4000))


def test_as_many_are_kept_as_in_open_clip():
    torch, transformer = pytest.importorskip("torch"), pytest.importorskip("open_clip.transformer")
    for count in (4, 49, 196, 256):
        for rate in (0.1, 0.25, 0.5, 0.75):
            theirs = transformer.PatchDropout(rate).train()(torch.zeros(1, 1 + count, 2))
            assert theirs.shape[1] == 1 + num_kept(count, rate)
    assert num_kept(10, 0.9) == 1  # which they round down to none, and then take one


@pytest.mark.parametrize("config", (PATCHES, dataclasses.replace(PATCHES, pooling="gap", positions="sincos2d")))
def test_tokens_are_those_of_open_clip(engine, config, monkeypatch):
    """Its PatchDropout, with our draw in the place of its own, of tokens that have their positions: before the blocks."""
    torch, transformer = pytest.importorskip("torch"), pytest.importorskip("open_clip.transformer")
    chosen, model = kept(0.5, 3), engine.build(config, parameters(config), "float64")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3))
    stem = model.stem(engine.tensor(images))
    whole, found = engine.array(model.embed(stem)), engine.array(model.embed(stem, engine.raw(chosen)))
    draws = torch.full((3, 16), -1.0)
    draws.scatter_(1, torch.from_numpy(chosen).long(), torch.arange(8.0).flip(0).expand(3, 8).contiguous())
    monkeypatch.setattr(torch, "randn", lambda *shape: draws)
    theirs = transformer.PatchDropout(0.5, exclude_first_token=config.pooling == "token").train()
    np.testing.assert_array_equal(found, theirs(torch.from_numpy(np.array(whole))).numpy())


def batches(config, steps: int = 3, rows: int = 8) -> list[dict[str, np.ndarray]]:
    size, rng = config.image_size[0], np.random.default_rng(0)
    recipe = dataclasses.replace(PLAIN, patch_dropout=0.5, crop=size, resize=size)
    found = [TrainBatches(split(size=size), recipe, 7, config=config).plan(step) for step in range(steps)]
    return [
        {
            "images": rng.integers(0, 256, (rows, size, size, 3), np.uint8),
            "labels": np.arange(rows, dtype=np.int32) % 5,
            "tokens": rng.integers(1, 32, (rows, 8), np.int32),
            "kept_patches": batch["kept_patches"],
        }
        for batch in found
    ]


def train(engine, config, data, **changes) -> tuple[list[float], dict[str, np.ndarray]]:
    recipe = recipe_of((0.05,) * len(data), patch_dropout=0.5, **changes)
    return engine.train(config, parameters(config), data, recipe, precision="float64", groups=recipe.groups)


def close(found, expected) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    for name, array in expected[1].items():
        np.testing.assert_allclose(found[1][name], array, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        pytest.param(TOWERS, {"task": Contrastive(), "batch_split": 2}, marks=pytest.mark.slow),
        pytest.param(TOWERS, {"task": Contrastive("softmax", chunk=4), "groups": WITHOUT_B}, marks=pytest.mark.slow),
        (PATCHES, {}),
        pytest.param(dataclasses.replace(HYBRID, dropout=0.0), {}, marks=pytest.mark.slow),
    ],
    ids=("towers", "softmax", "vit", "hybrid"),
)
def test_training_is_the_same_in_every_engine(config, changes):
    found = [train(Engine(name), config, batches(config, 2), **changes) for name in INSTALLED]
    for other in found[1:]:
        close(other, found[0])
    without = [{name: value for name, value in batch.items() if name != "kept_patches"} for batch in batches(config, 1)]
    whole = train(Engine(INSTALLED[0]), config, without, **changes)
    assert abs(whole[0][0] - found[0][0][0]) > 1e-6  # what is left out matters


@pytest.mark.slow
def test_parts_of_a_batch_see_the_same_patches(engine):
    runs = [train(engine, TOWERS, batches(TOWERS, 2), task=Contrastive(), batch_split=parts) for parts in (1, 4)]
    close(runs[1], runs[0])


@pytest.mark.parametrize("name", INSTALLED)
def test_steps_are_compiled_once(name):
    engine = Engine(name)
    if name == "bit_pytorch":
        pytest.skip("PyTorch compiles nothing")
    function = engine.loop.add_gradients if name == "bit_jax" else engine.loop.compiled_step
    count = (lambda: function._cache_size()) if name == "bit_jax" else function.experimental_get_tracing_count
    before = count()
    train(engine, TOWERS, batches(TOWERS, 3), task=Contrastive())
    assert count() - before == 1


@pytest.mark.parametrize(
    ("config", "rate", "sentence"),
    [
        (MIXER, 0.5, "--patch_dropout 0.5 is for ViTs that pool all their patches or a class token; give 0."),
        (ResNetConfig((1, 1), 0.5, 5), 0.5, "--patch_dropout 0.5 is for ViTs that pool"),
        (TwoTowersConfig(ResNetConfig((1, 1), 0.5, None)), 0.5, "--patch_dropout 0.5 is for ViTs that pool"),
        (dataclasses.replace(VIT, pooling="first"), 0.5, "--patch_dropout 0.5 is for ViTs that pool"),
        (VIT, 0.8, "--patch_dropout 0.8 leaves none of the 4 patches of an image; give less."),
    ],
)
def test_what_has_no_patches_to_leave_out_is_refused(config, rate, sentence):
    with pytest.raises(UserError, match=sentence):
        with_noise(config, 0.0, 0.0, rate)
    assert with_noise(VIT, 0.2, 0.0, 0.75) == VIT


@pytest.mark.parametrize("rate", (-0.1, 1.0))
def test_a_rate_is_below_one(rate):
    with pytest.raises(UserError, match="--patch_dropout"):
        create_recipe(TrainConfig(patch_dropout=rate), 50_000, (32, 32), {})


@pytest.mark.slow
def test_runs_are_the_same_and_are_judged_by_all_patches(run, tmp_path):
    """By the command, in every engine; `evaluate` and a model without patch dropout find what the run says."""
    for name in INSTALLED:
        run(
            f"{name}.train",
            *FLAGS,
            "--patch_dropout",
            0.5,
            "--steps",
            2,
            "--zero_shot",
            "",
            "--eval_every",
            2,
            "--name",
            name,
        )
        assert_same(metrics(tmp_path, INSTALLED[0]), metrics(tmp_path, name))
    told, folder = metrics(tmp_path, INSTALLED[0])[-1], tmp_path / "runs" / INSTALLED[0]
    given = ("--weights", folder, "--dataset", "captions-sample", "--evaluator", "retrieval", "--precision", "float64")
    assert f"recall@1 {told['test/img2txt_recall@1']:.2%}, " in run(f"{INSTALLED[0]}.evaluate", *given).stdout


def test_patches_of_several_sizes_are_left_out_alike():
    """Of each size in a step, as many as it has; a rate that leaves none of the largest is refused before the run."""
    flags = {
        "recipe": "vit_s16_i1k",
        "model": "ViT-mu/16",
        "weights": "none",
        "crop": 48,
        "patch_sizes": "8,24",
        "warmup_steps": 1,
    }
    flags |= {"batch": 4, "steps": 3, "name": "a", "patch_dropout": 0.7}
    run = Run(TrainConfig(**flags), engine="numpy")
    batches = TrainBatches(run.plan.splits["train"], run.recipe, 0, config=run.plan.model_config)
    plans = [batches.plan(step) for step in range(8)]
    kept = {plan["patch_size"][0]: plan["kept_patches"] for plan in plans}
    assert {side: found.shape[1] for side, found in kept.items()} == {8: 10, 24: 1}
    assert all(found.max() < (48 // side) ** 2 for side, found in kept.items())
    with pytest.raises(UserError, match="--patch_dropout 0.8 leaves none of the 4 patches of an image; give less"):
        Run(TrainConfig(**flags | {"patch_dropout": 0.8}), engine="numpy")
