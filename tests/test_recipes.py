"""Recipes: the rule, what a flag changes, and which numbers contradict one another."""

import dataclasses
import inspect
import json
import math
from pathlib import Path

import engines
import numpy as np
import pytest

from common.config import TrainConfig
from common.data.catalogue import NAMED
from common.flags import choices, options, replacing
from common.recipes import rules, schedules
from common.recipes.create import check_use, create_recipe
from common.recipes.groups import create_groups
from common.recipes.recipe import Recipe, upgraded
from common.recipes.task import KINDS
from common.system.errors import UserError

CIFAR10 = (50_000, (32, 32))


def recipe_of(num_examples=CIFAR10[0], image_size=CIFAR10[1], dataset_flags=None, **flags):
    return create_recipe(TrainConfig(**flags), num_examples, image_size, dataset_flags or {})


def is_falling_line(lrs):
    return lrs[-1] < lrs[-2] and np.allclose(np.diff(lrs, 2), 0, atol=1e-12)


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
        ("schedule", "linear", lambda r: "linear" if is_falling_line(r.lrs[-9:]) else "another"),
        ("label_smoothing", 0.1, lambda r: r.task.label_smoothing),
        ("optimizer", "adafactor", lambda r: r.optimizer),
        ("weight_decay", 0.3, lambda r: r.weight_decay),
        ("clip", 2.0, lambda r: r.clip),
        ("ema", 0.9, lambda r: r.ema),
        ("dropout", 0.2, lambda r: r.dropout),
        ("stochastic_depth", 0.3, lambda r: r.stochastic_depth),
        ("patch_dropout", 0.3, lambda r: r.patch_dropout),
        ("lora_rank", 4, lambda r: r.lora and r.lora.rank),
        ("patch_sizes", "8,16:2", lambda r: r.patch_sizes),
        ("resize", 300, lambda r: r.resize),
        ("crop", 24, lambda r: r.crop),
        ("crop_min_area", 0.5, lambda r: r.crop_min_area),
        ("resize_mode", "small_side", lambda r: r.resize_mode),
        ("flip", 0.0, lambda r: r.flip),
        ("resize_kind", "bicubic", lambda r: r.resize_kind),
        ("eval_resize", 256, lambda r: r.eval_resize),
        ("eval_resize_kind", "area", lambda r: r.eval_resize_kind),
        ("randaugment_layers", 2, lambda r: r.randaugment_layers),
        ("rho", 0.05, lambda r: r.rho),
    ],
)
def test_every_flag_overrides_the_rule(recipe, flag, value, found):
    assert found(recipe_of(recipe=recipe, **{flag: value})) == value
    assert found(recipe_of(recipe=recipe)) != value


def test_another_optimizer_leaves_all_other_numbers_as_they_are():
    """Also those that only it reads; of one without momentum, the place of the rate is refused."""
    theirs, ours = (recipe_of(recipe="clip", warmup_steps=1, **flags) for flags in ({}, {"optimizer": "sgd"}))
    assert ours == dataclasses.replace(theirs, optimizer="sgd") and theirs.optimizer == "adam"
    assert recipe_of(recipe="coyo_finetune", optimizer="sgd").momentum_rate == "inside"
    with pytest.raises(
        UserError, match="--optimizer adafactor has no momentum, and coyo_finetune keeps its rate inside"
    ):
        recipe_of(recipe="coyo_finetune", optimizer="adafactor")


def test_a_flag_of_what_is_off_is_refused():
    assert recipe_of(randaugment_layers=2, randaugment_magnitude=7.5).randaugment_magnitude == 7.5
    assert recipe_of(recipe="augreg", warmup_steps=1, randaugment_magnitude=7.5).randaugment_magnitude == 7.5
    with pytest.raises(
        UserError, match="--randaugment_magnitude 7.5 belongs to RandAugment, which is off; give --rand"
    ):
        recipe_of(randaugment_magnitude=7.5)
    assert recipe_of(examples_per_class=5, examples_per_class_seed=3)
    with pytest.raises(UserError, match="--examples_per_class_seed 3 belongs to a choice of images, which is off"):
        recipe_of(examples_per_class_seed=3)


def test_the_flags_tested_above_are_all_there_are():
    overridden = test_every_flag_overrides_the_rule.pytestmark[0].args[1]
    elsewhere = {"cooldown_steps", "augmentation"}  # each belongs to one schedule, or recipe
    elsewhere |= {"randaugment_magnitude"}  # to RandAugment: below
    elsewhere |= {"rho_min", "gsam_alpha", "sam_group"}  # to SAM: test_sam.py
    elsewhere |= {"teacher", "distance", "temperature", "teacher_view", "variant"}  # tests/test_distill_recipes.py
    elsewhere |= {"chunk", "first_temperature", "first_bias", "most_temperature"}  # tests/test_image_text_recipes.py
    elsewhere |= {"third_tower", "locked"}
    elsewhere |= {"parallel", "masking_ratio"}  # to captioning: test_captioning_runs.py
    elsewhere |= {"reward", "samples"}  # to tuning by rewards: test_rewards.py
    elsewhere |= {"commitment_weight", "code_dropout", "frozen_codebook", "oracle"}  # to maps: test_uvim_recipes.py
    elsewhere |= {"token_lengths"}  # without mixup: test_naflex_runs.py
    elsewhere |= {"lora_alpha", "lora_targets"}  # to LoRA: test_lora.py
    assert {flag for flag, *_ in overridden} | elsewhere == {*replacing(TrainConfig), "batch_split"}


def test_every_function_of_a_source_with_the_arguments_of_a_recipe_is_listed():
    arguments = ["num_examples", "image_size", "flags"]
    for source in rules.SOURCES:
        found = {f for _, f in inspect.getmembers(source, inspect.isfunction) if f.__module__ == source.__name__}
        assert {f for f in found if [*inspect.signature(f).parameters] == arguments} == {*source.RECIPES}


@pytest.mark.parametrize("option", ("recipes", "tasks"))
def test_a_flag_of_other_recipes_or_tasks_is_refused_by_name_everywhere_else(option):
    names = {"recipes": set(rules.RULES), "tasks": set(KINDS)}[option]
    found = [(f.name, f.metadata[option]) for f in dataclasses.fields(TrainConfig) if option in f.metadata]
    for flag, users in found:
        values = choices(TrainConfig).get(flag)
        config = TrainConfig(**{flag: values[0] if values else 0.5})
        for name in names - {*users}:
            with pytest.raises(UserError, match=f"--{flag} belongs to the .*{users[0]}.*; {name} has no use for it"):
                check_use(config, option, name)
        for name in users:
            check_use(config, option, name)
    assert found


def test_a_flag_for_a_number_of_tasks_names_all_of_them():
    """And nothing that replaces a number of tasks is without a flag, but for loss and target, which its recipe decides, and how
    texts are written, which evaluate and predict decide."""
    kinds = {name: {f.name for f in dataclasses.fields(kind)} for name, kind in KINDS.items()}
    numbers = set().union(*kinds.values()) - {"loss", "target", "writing"}
    assert numbers <= replacing(TrainConfig)
    for flag in numbers:
        users = {name for name, fields in kinds.items() if flag in fields}
        assert set(options(TrainConfig, flag)["tasks"]) == users, flag


def test_evaluation_resizes_as_training_does_unless_told_otherwise():
    assert recipe_of(resize_kind="bicubic").eval_resize_kind == "bicubic"
    assert recipe_of(resize_kind="bicubic", eval_resize_kind="area").resize_kind == "bicubic"
    assert recipe_of(recipe="augreg", warmup_steps=1, resize_kind="bicubic").eval_resize_kind == "area"  # as its source


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
    row = NAMED["cifar10-sample"].recipe
    assert row["resize"] == 72 and row["crop"] == 64
    assert (recipe_of(dataset_flags=row).num_steps, recipe_of(dataset_flags=row, steps=7).num_steps) == (100, 7)
    assert recipe_of(dataset_flags=row).batch_eval == 250
    assert recipe_of(dataset_flags=row, recipe="bit_pretrain").batch == 256  # the row speaks of fine-tuning


def test_compat_is_what_the_original_code_did():
    """`input_pipeline_tf2_or_jax.py` of google-research/big_transfer; a flag wins over it."""
    ours, theirs = (dataclasses.asdict(recipe_of(compat=compat)) for compat in (None, "bit2021"))
    assert {name: value for name, value in theirs.items() if value != ours[name]} == {
        "flip": 1.0,
        "resize_kind": "bilinear_aliased",
        "eval_resize_kind": "bilinear_aliased",
    }
    assert ours["flip"] == 0.5 and recipe_of(compat="bit2021", flip=0.5).flip == 0.5


def test_the_whole_image_is_resized_to_the_crop():
    for flags in ({}, {"crop": 64}):
        recipe = recipe_of(dataset_flags={"resize_mode": "whole"}, **flags)
        assert recipe.resize == recipe.crop == flags.get("crop", 128)


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
        ({"resize_mode": "stretch"}, "--resize_mode is 'stretch', expected squash or small_side or whole"),
        ({"resize_mode": "whole", "resize": 200}, "--resize_mode whole has no use for --resize"),
        ({"resize_mode": "whole", "crop_min_area": 0.5}, "--resize_mode whole keeps the whole image"),
        ({"flip": 1.5}, "--flip is 1.5, expected at most 1"),
        (
            {"compat": "bit2021", "recipe": "vit_finetune"},
            "--compat belongs to the recipe bit_finetune; vit_finetune has no use",
        ),
        ({"randaugment_magnitude": 20.5}, "--randaugment_magnitude is 20.5, expected at most 20"),
        ({"randaugment_magnitude": math.nan}, "--randaugment_magnitude is nan"),
        ({"augmentation": "light1"}, "--augmentation belongs to the recipe augreg; bit_finetune has no use"),
        ({"cooldown_steps": 5}, "--cooldown_steps belongs to --schedule rsqrt"),
        ({"recipe": "vit_s16_i1k", "steps": 100}, "warms up over 10000 steps and the run has 100"),
        ({"batch": 10**9}, "--batch 1000000000 of 128 px is 45,777 GiB of pixels, expected at most 16"),
        ({"batch_eval": 10**9}, "--batch_eval 1000000000 of 128 px is 45,777 GiB"),
        ({"crop": 10_000, "resize": 10_000}, "--batch 512 of 10000 px is 144 GiB"),
    ],
)
def test_contradictions_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        recipe_of(**flags)


@pytest.mark.parametrize("flags", ({"steps": 10**12}, {"recipe": "bit_pretrain", "batch": 1, "num_examples": 10**9}))
def test_a_run_that_would_not_end_is_refused_before_its_rates_are_listed(flags, monkeypatch):
    monkeypatch.setattr("common.recipes.create.create_rates", None)
    with pytest.raises(UserError, match="000,000 steps, expected at most 20,000,000"):
        recipe_of(**flags)


@pytest.mark.parametrize("flags", ({"batch": 65_536, "crop": 224}, {"batch": 4096, "crop": 1024}))
def test_the_largest_batches_that_anyone_trains_with_are_fine(flags):
    assert recipe_of(**flags, steps=10).batch == flags["batch"]


def test_an_odd_batch_without_mixup_is_fine():
    assert recipe_of(batch=9, mixup=0.0).batch == 9


def test_a_recipe_is_plain_json():
    recipe = recipe_of(steps=5)
    read = json.loads(json.dumps(recipe.record()))
    assert read == recipe.record() | {"lrs": list(recipe.lrs)}
    assert read["groups"] == [{"pattern": "(.*/)?kernel", "decayed": True}]
    assert read["task"] == {"name": "classification", "loss": "softmax", "label_smoothing": 0.0}


def test_older_constants_name_their_groups():
    """A run that the version before has stopped goes on, one with other groups does not."""
    for train_only in ("all", "head", "norm"):
        for decay_mask in ("kernels", "all"):
            recipe = engines.recipe_of([0.1], train_only=train_only, decay_mask=decay_mask)
            now = recipe.constants()
            before = {name: value for name, value in now.items() if name not in ("groups", "task")}
            found = upgraded(before | {"train_only": train_only, "decay_mask": decay_mask})
            assert found["groups"] == now["groups"] and upgraded(now) is now
            assert (upgraded(before)["groups"] == now["groups"]) == ((train_only, decay_mask) == ("all", "kernels"))


def test_no_number_of_a_task_is_called_as_one_of_the_recipe():
    """Checkpoints state both side by side."""
    own = {field.name for field in dataclasses.fields(Recipe)}
    for kind in KINDS.values():
        assert not own & {field.name for field in dataclasses.fields(kind)}


# --- the published recipes, against what the originals' own code computes

SAMPLES = json.loads((Path(__file__).parent / "golden" / "schedules.json").read_text())["samples"]
IMAGENET = (1_281_167, (224, 224))


@pytest.mark.parametrize("name", SAMPLES)
def test_rates_are_those_of_the_originals(name):
    """Theirs are float32: 1e-6 of the rate, and the last ones, which are nearly zero, within 1e-7 of the highest."""
    golden = SAMPLES[name]
    if name == "coyo, cosine":
        lrs, base = schedules.cosine(93_600, 10_000, 3e-3), 3e-3
    elif name == "coyo, linear":
        lrs, base = schedules.linear(100_000, 10_000, 6e-4, 1e-5 / 6e-4), 6e-4
    else:
        base = golden["base_lr"]
        lrs = recipe_of(golden["num_examples"], recipe=name.partition(" ")[0], base_lr=base).lrs
    assert len(lrs) == golden["total_steps"]
    factors = golden.get("factors") or {step: lr / base for step, lr in golden["rates"].items()}
    for step, factor in factors.items():
        if int(step) < len(lrs):  # some state the rate after the last update, too
            assert lrs[int(step)] / base == pytest.approx(factor, rel=1e-6, abs=1e-7), step


def test_rsqrt_as_big_vision_writes_it():
    """1 / sqrt(1 + steps since the warm-up / timescale), times a warm-up, times a cooldown: by hand."""
    lrs = schedules.rsqrt(50, 10, 0.5, timescale=16, cooldown=10)
    assert lrs[0] == 0 and lrs[5] == 0.25 and lrs[10] == 0.5
    assert lrs[26] == pytest.approx(0.5 / math.sqrt(2))
    assert lrs[40] == pytest.approx(0.5 / math.sqrt(1 + 30 / 16))
    assert lrs[45] == pytest.approx(0.5 / math.sqrt(1 + 35 / 16) * 5 / 10)
    flags = {"schedule": "rsqrt", "steps": 50, "warmup_steps": 10, "base_lr": 0.5}
    recipe = recipe_of(*IMAGENET, recipe="vit_s16_i1k", cooldown_steps=10, **flags)
    assert recipe.lrs == schedules.rsqrt(50, 10, 0.5, cooldown=10)


PUBLISHED = {  # of 1,268,355 images of ImageNet (99 %), or of CIFAR-10; batch, steps, and the rest
    "vit_s16_i1k": (1024, 111_477, {"optimizer": "adam", "weight_decay": 1e-4, "decay": "independent", "mixup": 0.2,
                                    "first_moment": "bfloat16", "clip": 1, "randaugment_magnitude": 10, "eval_resize": 256}),
    "augreg": (4096, 92_897, {"loss": "sigmoid", "head_bias": -6.9, "mixup": 0.5, "randaugment_magnitude": 15, "clip": 1}),
    "mixer_i1k": (4096, 92_897, {"loss": "sigmoid", "head_bias": -6.9, "mixup": 0.5, "stochastic_depth": 0.1,
                                 "first_moment": "float32", "randaugment_layers": 2, "randaugment_magnitude": 15}),
    "gsam_i1k": (4096, 92_897, {"head_bias": -10, "mixup": 0, "randaugment_layers": 0, "first_moment": "float32", "clip": 1,
                                "base_lr": 0.003, "weight_decay": 0.001, "end_lr": 3e-5, "rho": 0.6, "rho_min": 0.1,
                                "gsam_alpha": 0.6, "sam_group": 0, "decay": "independent", "optimizer": "adam"}),
    "bit_i1k": (4096, 27_869, {"optimizer": "sgd", "base_lr": 1.6, "weight_decay": 0.0016, "decay": "independent",
                               "first_moment": "bfloat16", "mixup": 0, "randaugment_layers": 0, "clip": 1}),
    "bit_i21k": (4096, 27_869, {"loss": "sigmoid", "head_bias": -10, "base_lr": 0.48, "weight_decay": 0.00048}),
    "coyo_pretrain": (4096, 7 * 309, {"decay": "decoupled", "epsilon": 1e-7, "epsilon_hat": True,
                                      "weight_decay": 0.1, "loss": "sigmoid", "head_bias": 0, "clip": 1, "ema": 0}),
    "coyo_finetune": (512, 8 * 2477, {"optimizer": "sgd", "crop": 384, "eval_resize": 0, "base_lr": 0.06, "clip": 1}),
    "vit_finetune": (512, 20_000, {"crop": 384, "crop_min_area": 0.05, "base_lr": 0.03, "weight_decay": 0, "clip": 1,
                                   "eval_resize": 0, "first_moment": "bfloat16"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes(name):
    batch, steps, numbers = PUBLISHED[name]
    flags = {"warmup_steps": 100} if name == "coyo_pretrain" else {}  # COYO-300M has more images than ImageNet
    recipe = recipe_of(1_268_355, (224, 224), recipe=name, **flags)
    assert (recipe.batch, recipe.num_steps) == (batch, steps)
    assert recipe.groups == create_groups(decay_mask="all" if name == "coyo_pretrain" else "kernels")
    assert {field: recipe.constants()[field] for field in numbers} == pytest.approx(numbers)


def test_the_batch_changes_the_rate_where_the_source_says_so():
    for name, base_lr, weight_decay in (
        ("bit_i1k", 0.1, 1e-4), ("bit_i21k", 0.03, 3e-5), ("vit_s16_i1k", 1e-3, 1e-4), ("mixer_i1k", 1e-3, 1e-4),
    ):  # fmt: skip
        recipe = recipe_of(*IMAGENET, recipe=name, batch=256)
        assert (recipe.base_lr, recipe.weight_decay) == (pytest.approx(base_lr), pytest.approx(weight_decay))
    assert recipe_of(*IMAGENET, recipe="vit_s16_i1k", batch=256).num_steps == round(90 * IMAGENET[0] / 256)


def test_the_grid_of_augreg():
    """Every level; a flag of its own wins; ImageNet-21k, known by its size, has another default and head."""
    found = {
        level: recipe_of(*IMAGENET, recipe="augreg", augmentation=level)
        for level in ("none", "light1", "light2", "medium1", "medium2", "strong1", "strong2")
    }
    assert [r.mixup for r in found.values()] == [0, 0, 0.2, 0.2, 0.5, 0.5, 0.8]
    assert [r.randaugment_layers for r in found.values()] == [0, 2, 2, 2, 2, 2, 2]
    assert [r.randaugment_magnitude for r in found.values()] == [0, 0, 10, 15, 15, 20, 20]
    assert recipe_of(*IMAGENET, recipe="augreg", augmentation="strong2", mixup=0.1).mixup == 0.1
    large = recipe_of(12_743_321, (224, 224), recipe="augreg")
    assert (large.mixup, large.randaugment_magnitude, large.head_bias) == (0.2, 10, -10)


def test_the_end_of_a_linear_schedule_stays_where_the_source_puts_it():
    """coyo's is 1e-5 whatever the rate, big_vision's 1e-5 of the rate."""
    flags = {"steps": 1000, "warmup_steps": 0, "base_lr": 0.01}
    last = {name: recipe_of(*IMAGENET, recipe=name, **flags).lrs[-1] for name in ("coyo_pretrain", "mixer_i1k")}
    assert last["coyo_pretrain"] == pytest.approx(1e-5 + (0.01 - 1e-5) / 1000)
    assert last["mixer_i1k"] == pytest.approx(1e-7 + (0.01 - 1e-7) / 1000)


def test_a_crop_takes_the_sizes_around_it_along():
    recipe = recipe_of(*IMAGENET, recipe="vit_s16_i1k", crop=112)
    assert (recipe.resize, recipe.crop, recipe.eval_resize) == (112, 112, 128)


def test_epochs_are_steps_of_the_recipes_batch():
    assert recipe_of(epochs=3).num_steps == round(3 * 50_000 / 512)
    assert recipe_of(epochs=0.5, batch=100).num_steps == 250
    assert recipe_of(epochs=1e-9).num_steps == 1
    by_steps, by_epochs = recipe_of(steps=1000, batch=50), recipe_of(epochs=1, batch=50)
    assert by_steps == by_epochs and by_steps.lrs == by_epochs.lrs  # the schedule is stretched in the same way
    assert (
        recipe_of(recipe="vit_s16_i1k", num_examples=1_281_167, epochs=30, batch=4096, warmup_steps=9).num_steps == 9384
    )


@pytest.mark.parametrize("flags", ({"warmup_steps": 11}, {"schedule": "rsqrt", "cooldown_steps": 11}), ids=str)
def test_a_part_that_is_longer_than_the_run_is_refused(flags):
    with pytest.raises(UserError, match=f"--{list(flags)[-1]} is 11 and the run has 10 steps"):
        recipe_of(steps=10, **flags)
