"""Recipes: the rule, what a flag changes, and which numbers contradict one another."""

import dataclasses
import json
import math

import pytest

from common.config import TrainConfig
from common.datasets import rows
from common.errors import UserError
from common.recipes import FLAGS, create_recipe

CIFAR10 = (50_000, (32, 32))


def recipe_of(num_examples=CIFAR10[0], image_size=CIFAR10[1], dataset_flags=None, **flags):
    return create_recipe(TrainConfig(**flags), num_examples, image_size, dataset_flags or {})


def test_the_rule_for_cifar10():
    recipe = recipe_of()
    assert (recipe.batch, recipe.batch_eval, recipe.batch_split, recipe.num_steps) == (512, 512, 1, 10_000)
    assert (recipe.resize, recipe.crop, recipe.crop_min_area, recipe.resize_kind) == (160, 128, 1.0, "bilinear")
    assert (recipe.mixup, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 0.0)
    assert [recipe.lrs[step] for step in (0, 250, 500, 3000)] == [0, 0.0015, 0.003, 0.003]
    assert recipe.lrs[3001] == recipe.lrs[6000] == pytest.approx(3e-4)
    assert recipe.lrs[9001] == recipe.lrs[9999] == pytest.approx(3e-6)


def test_the_rule_for_a_small_set_of_large_images():
    recipe = recipe_of(1020, (224, 224))
    assert (recipe.resize, recipe.crop, recipe.mixup, recipe.num_steps) == (512, 480, 0.0, 500)


@pytest.mark.parametrize("recipe", ("bit_finetune", "bit_pretrain", "bit_pretrain_stepwise"))
@pytest.mark.parametrize(
    ("flag", "value", "found"),
    [
        ("batch", 64, lambda r: r.batch),
        ("batch_eval", 7, lambda r: r.batch_eval),
        ("batch_split", 4, lambda r: r.batch_split),
        ("base_lr", 0.5, lambda r: max(r.lrs)),
        ("steps", 90, lambda r: r.num_steps),
        ("warmup_steps", 17, lambda r: r.lrs.index(max(r.lrs))),
        ("mixup", 0.3, lambda r: r.mixup),
        ("dropout", 0.2, lambda r: r.dropout),
        ("stochastic_depth", 0.3, lambda r: r.stochastic_depth),
        ("resize", 300, lambda r: r.resize),
        ("crop", 24, lambda r: r.crop),
        ("crop_min_area", 0.5, lambda r: r.crop_min_area),
        ("resize_mode", "small_side", lambda r: r.resize_mode),
        ("eval_resize", 256, lambda r: r.eval_resize),
        ("randaugment_layers", 2, lambda r: r.randaugment_layers),
        ("randaugment_magnitude", 7.5, lambda r: r.randaugment_magnitude),
    ],
)
def test_every_flag_overrides_the_rule(recipe, flag, value, found):
    assert found(recipe_of(recipe=recipe, **{flag: value})) == value
    assert found(recipe_of(recipe=recipe)) != value


def test_the_flags_tested_above_are_all_there_are():
    overridden = test_every_flag_overrides_the_rule.pytestmark[0].args[1]
    assert {flag for flag, *_ in overridden} == {*FLAGS, "batch_split"}


def test_zero_is_a_value_and_not_an_absent_flag():
    recipe = recipe_of(mixup=0.0, warmup_steps=0, base_lr=0.0)
    assert recipe.mixup == 0 and set(recipe.lrs) == {0}
    assert recipe_of(warmup_steps=0).lrs[0] == 0.003


def test_steps_stretch_the_whole_schedule():
    """(500, 3000, 6000, 9000, 10000) in a twentieth of the steps: (25, 150, 300, 450, 500)."""
    lrs = recipe_of(steps=500).lrs
    drops = [step for step in range(1, 500) if lrs[step] < lrs[step - 1]]
    assert lrs.index(0.003) == 25 and drops == [151, 301, 451] and len(lrs) == 500


def test_warmup_replaces_only_the_warmup():
    longer, usual = recipe_of(warmup_steps=1000).lrs, recipe_of().lrs
    assert longer[500] == 0.0015 and longer[1000:] == usual[1000:]


@pytest.mark.parametrize("steps", (1, 2, 3, 9))
@pytest.mark.parametrize("recipe", ("bit_finetune", "bit_pretrain", "bit_pretrain_stepwise"))
def test_the_shortest_runs_have_finite_rates(recipe, steps):
    lrs = recipe_of(recipe=recipe, steps=steps).lrs
    assert len(lrs) == steps and all(0 <= lr <= 0.06 for lr in lrs)


def test_pretrain_with_cosine():
    """1,280 images in batches of 128 are 10 steps an epoch, 900 in 90 epochs; warm-up 900 // 20 = 45; rate 0.03 / 2."""
    recipe = recipe_of(1280, (64, 64), recipe="bit_pretrain", batch=128)
    assert recipe.num_steps == 900
    assert recipe.lrs[:2] == (0, pytest.approx(0.015 / 45)) and recipe.lrs[45] == 0.015
    # Halfway through the decay, at 45 + 855 / 2 = 472.5, the cosine passes through half of the rate.
    assert (recipe.lrs[472] + recipe.lrs[473]) / 2 == pytest.approx(0.0075, rel=1e-9)
    # The last step is one before the end: (1 + cos(pi - x)) / 2 = x^2 / 4 with x = pi / 855, to fourth order.
    assert recipe.lrs[-1] == pytest.approx(0.015 * (math.pi / 855) ** 2 / 4, rel=1e-4)
    assert all(a > b for a, b in zip(recipe.lrs[45:], recipe.lrs[46:]))
    assert (recipe.weight_decay, recipe.crop_min_area, recipe.crop, recipe.mixup) == (1e-4, 0.08, 64, 0)


def test_pretrain_with_the_steps_of_the_paper():
    """ILSVRC-2012: 90 x 1,281,167 / 256 = 450,411 steps; warm-up 5,000; by ten after 1/3, 2/3 and 8/9."""
    lrs = recipe_of(1_281_167, (224, 224), recipe="bit_pretrain_stepwise").lrs
    drops = [step for step in range(1, len(lrs)) if lrs[step] < lrs[step - 1]]
    assert len(lrs) == 450_411 and lrs.index(max(lrs)) == 5000 and max(lrs) == 0.03
    assert drops == [150_137 + 1, 300_274 + 1, 400_365 + 1]
    assert lrs[-1] == pytest.approx(3e-5)


def test_a_flag_wins_over_the_datasets_row_which_wins_over_the_rule():
    row = rows()["cifar10-sample"].recipe
    assert row["resize"] == 72 and row["crop"] == 64
    assert (recipe_of(dataset_flags=row).num_steps, recipe_of(dataset_flags=row, steps=7).num_steps) == (100, 7)
    assert recipe_of(dataset_flags=row).batch_eval == 250
    assert recipe_of(dataset_flags=row, recipe="bit_pretrain").batch == 256  # the row speaks of fine-tuning


@pytest.mark.parametrize(("crop", "resize"), [(128, 160), (32, 40)])
def test_the_crop_alone_scales_the_resize_with_it(crop, resize):
    """160 / 128 of the rule, whatever the dataset's row says of another crop."""
    for row in ({}, {"resize": 72, "crop": 64}):
        assert recipe_of(dataset_flags=row, crop=crop).resize == resize


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"batch_split": 3}, "--batch_split 3 does not divide the batch of 512"),
        ({"batch": 10, "batch_split": 2}, "has 5 images"),
        ({"batch": 9}, "has 9 images"),
        ({"resize": 100}, "--resize 100 is smaller than --crop 128"),
        ({"crop_min_area": 0.0}, "--crop_min_area is 0.0"),
        ({"crop_min_area": 1.5}, "--crop_min_area is 1.5"),
        ({"crop_min_area": math.nan}, "--crop_min_area is nan"),
        ({"eval_resize": 127}, "--eval_resize 127 is smaller than --crop 128"),
        ({"resize_mode": "stretch"}, "--resize_mode is 'stretch', expected squash or small_side"),
        ({"randaugment_magnitude": 10.5}, "--randaugment_magnitude is 10.5, expected 0 to 10"),
        ({"randaugment_magnitude": math.nan}, "--randaugment_magnitude is nan"),
    ],
)
def test_contradictions_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        recipe_of(**flags)


def test_an_odd_batch_without_mixup_is_fine():
    assert recipe_of(batch=9, mixup=0.0).batch == 9


def test_a_recipe_is_plain_json():
    recipe = recipe_of(steps=5)
    read = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert {name: tuple(v) if isinstance(v, list) else v for name, v in read.items()} == dataclasses.asdict(recipe)
