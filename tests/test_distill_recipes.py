"""Recipes and teachers of "Knowledge distillation: A good teacher is patient and consistent", as their configurations state them."""

import json
from pathlib import Path

import pytest

from common.config import TrainConfig
from common.flags import arguments
from common.models import find_model
from common.recipes.create import create_recipe
from common.recipes.task import Distillation
from common.runs.command import parse
from common.system.errors import UserError

CONFIGS = json.loads((Path(__file__).parent / "golden" / "distill" / "facts.json").read_text())["configs"]


def test_every_teacher_is_in_the_manifest():
    for name, config in CONFIGS.items():
        facts = config["values"]
        (teacher,) = facts["teachers"]
        address = facts[f"{teacher}_init"].replace("gs://", "https://storage.googleapis.com/")
        row = find_model(Path(address).stem)
        assert (row.url, row.num_classes) == (address, facts["num_classes"]), name
        depth, width = facts[teacher]["depth"], facts[teacher]["width"]
        assert row.architecture == f"R{depth}x{width}", name
        # `resize_small(256)|central_crop(224)` and `resize_small(160)|central_crop(128)` of the evaluations
        size = {1000: (256, 224)}.get(facts["num_classes"], (160, 128))
        assert (row.eval_resize, row.resolution) == size and row.resize_kind == "area", name


IMAGES = {"flowers": 100, "pet": 2000, "food": 20_000, "sun": 20_000, "bit": 20_000}  # few, for the rates take time
RECIPES = {"flowers": "distill_flowers", "pet": "distill_pets", "food": "distill_food", "sun": "distill_sun"}


def recipe_of(name: str):
    """Our recipe of the configuration called `name`."""
    data, _, variant = name.partition("_")
    flags = {"recipe": "distill_i1k"} if name == "bit_i1k" else {"recipe": RECIPES[data], "variant": variant}
    return create_recipe(TrainConfig(**flags), IMAGES[data], (224, 224), {})


def distill(**flags):
    """The recipe `distill` with flags."""
    return create_recipe(TrainConfig(recipe="distill", **({"teacher": "a"} | flags)), 50_000, (32, 32), {})


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_are_those_of_the_configuration(name):
    facts, recipe = CONFIGS[name]["values"], recipe_of(name)
    steps = facts["total_epochs"] * IMAGES[name.partition("_")[0]] / facts["input"]["batch_size"]
    assert (recipe.batch, recipe.num_steps) == (facts["input"]["batch_size"], round(steps))
    assert f"inception_crop({recipe.crop})|flip_lr" in facts["input"]["pp"] and recipe.crop_min_area == 0.05
    assert (recipe.eval_resize, recipe.eval_resize_kind) == ({224: 256, 128: 160}[recipe.crop], "area")
    assert facts["mixup"] == {"p": recipe.mixup} and recipe.clip == facts["grad_clip_norm"]
    assert facts["optax_name"] == f"scale_by_{recipe.optimizer}" and recipe.decay == "independent"
    assert facts["optax"] == {"mu_dtype": recipe.first_moment} and recipe.weight_decay == facts["wd"]
    assert (recipe.base_lr, recipe.beta1, recipe.beta2, recipe.epsilon) == (facts["lr"], 0.9, 0.999, 1e-8)
    warmup = facts["schedule"]["warmup_steps"]
    assert recipe.lrs[0] == 0 and recipe.lrs[warmup] == max(recipe.lrs) == facts["lr"]
    assert recipe.lrs[-1] < 1e-4 * facts["lr"] and facts["schedule"]["decay_type"] == "cosine"
    assert isinstance(recipe.task, Distillation) and recipe.task.distance == facts["distance"] == "kl"
    assert facts["distance_kw"] == {"t": recipe.task.temperature} and recipe.task.teacher_view == "same"
    address = facts[f"{facts['teachers'][0]}_init"]
    assert recipe.task.named == {"teacher": Path(address).stem}


def test_the_variant_is_medium_as_there_unless_another_is_given():
    for data, name in RECIPES.items():
        recipe = create_recipe(TrainConfig(recipe=name), IMAGES[data], (224, 224), {})
        assert recipe == recipe_of(f"{data}_medium")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"teacher": "a,b"}, {"teacher": "a,b"}),
        ({"distance": "l2"}, {"distance": "l2"}),
        ({"temperature": 3.0}, {"temperature": 3.0}),
        ({"teacher_view": "own"}, {"teacher_view": "own"}),
        ({"distance": "hard", "label_smoothing": 0.1}, {"distance": "hard", "label_smoothing": 0.1}),
    ],
)
def test_flags_override_the_rule(flags, found):
    assert distill(**flags).task == Distillation(**{"teacher": "a"} | found) != distill().task


def test_several_teachers_are_named_in_order():
    words = ("--recipe", "distill", "--teacher", "a", "--teacher=b.npz", "--teacher", "runs/c")
    config = parse(TrainConfig, words, "python -m bit_jax.train", "Train.")
    recipe = create_recipe(config, 50_000, (32, 32), {})
    assert recipe.task.named == {"teacher": "a", "teacher2": "b.npz", "teacher3": "runs/c"}
    assert arguments(config) == ["--recipe", "distill", "--teacher", "a,b.npz,runs/c"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"teacher": None}, "needs a teacher; name a published model"),
        ({"temperature": 0.0}, "--temperature is 0.0, expected at least 1e-30"),
        ({"distance": "l2", "temperature": 2.0}, "--temperature belongs to --distance kl; l2 has no use for it"),
        ({"label_smoothing": 0.1}, "--label_smoothing belongs to --distance hard; kl has no use for it"),
        ({"distance": "cosine"}, "--distance is 'cosine', expected kl or euclidean or l2 or hard"),
        ({"variant": "fast"}, "--variant belongs to the recipes distill_flowers and .*; distill has no use for it"),
        ({"recipe": "bit_pretrain"}, "--teacher belongs to the task distillation; classification has no use for it"),
        ({"recipe": "bit_pretrain", "teacher": None, "temperature": 2.0}, "--temperature belongs to the task"),
    ],
)
def test_what_cannot_be_is_one_sentence(flags, message):
    with pytest.raises(UserError, match=message):
        create_recipe(TrainConfig(**{"recipe": "distill", "teacher": "a"} | flags), 50_000, (32, 32), {})
