"""The recipes of FlexiViT, as its configurations state them."""

import json
from pathlib import Path

import pytest

from common.config import TrainConfig
from common.models import find_model
from common.recipes.create import create_recipe
from common.recipes.per_step import sides
from common.system.errors import UserError

CONFIGS = json.loads((Path(__file__).parent / "golden" / "flexivit" / "facts.json").read_text())["configs"]
NAMES = {"flexivit_i1k": "i1k_deit3_distill", "flexivit_i21k": "i21k_sup", "flexivit_i21k_distill": "i21k_distill"}
IMAGES = 600_000  # few, for the rates take time


def recipe_of(name: str, **flags):
    return create_recipe(TrainConfig(recipe=name, **flags), IMAGES, (224, 224), {})


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_configuration(name):
    facts, recipe = CONFIGS[NAMES[name]]["values"], recipe_of(name)
    assert recipe.batch == facts["input"]["batch_size"]
    assert recipe.num_steps == round(facts["total_epochs"] * IMAGES / recipe.batch)
    assert (recipe.crop, recipe.crop_min_area, recipe.flip, recipe.eval_resize) == (facts["res"], 0.05, 0.5, 272)
    assert "inception_crop" in facts["input"]["pp"] and "flip_lr" in facts["input"]["pp"]
    layers = (2, 10.0) if "randaug(2,10)" in facts["input"]["pp"] else (0, 0.0)
    assert (recipe.randaugment_layers, recipe.randaugment_magnitude) == layers
    assert recipe.mixup == facts["mixup"]["p"] and recipe.clip == facts["grad_clip_norm"]
    assert facts["optax_name"] == f"scale_by_{recipe.optimizer}" and recipe.decay == "independent"
    assert facts["optax"] == {"mu_dtype": recipe.first_moment} and recipe.weight_decay == facts["wd"]
    warmup = facts["schedule"]["warmup_steps"]
    assert recipe.base_lr == facts["lr"] == recipe.lrs[warmup] and recipe.lrs[0] == 0
    assert facts["schedule"]["decay_type"] == "cosine" and recipe.lrs[-1] < 1e-4 * facts["lr"]
    weights = facts["flexi"]["seqhw"]
    assert [*sides(recipe.patch_sizes)] == [recipe.crop // count for count in weights["v"]]
    assert [*sides(recipe.patch_sizes).values()] == [p / sum(weights["p"]) for p in weights["p"]]
    if "teachers" in facts:
        assert recipe.task.distance == facts["distance"] and facts["distance_kw"] == {"t": recipe.task.temperature}
        assert recipe.task.teacher_view == "same"  # the same box, resized for the teacher
        side = find_model(recipe.task.named["teacher"]).resolution
        assert f"resize({side}" in facts["input"]["pp"] and facts["prof_init"] == facts["student_init"]
    else:
        assert (f"{recipe.task.loss}_xent", recipe.head_bias) == (facts["loss"], facts["init_head_bias"])


def test_sizes_follow_the_crop_and_the_flag():
    assert [*sides(recipe_of("flexivit_i21k", crop=120).patch_sizes)] == [24, 20, 15, 12, 10, 8, 7, 6, 5, 4]
    assert recipe_of("flexivit_i21k", patch_sizes="8:2,16").patch_sizes == "8:2,16"


def test_models_are_as_there():
    config = find_model("FlexiViT-B").config()
    given = CONFIGS["i21k_sup"]["values"]["model"]
    assert (config.pooling, config.positions, config.cls_position) == ("token", "learned", False)
    assert (given["pool_type"], given["posemb"], given["posemb_size"]) == ("tok", "learn", [*config.position_grid])


def test_models_that_write_have_no_use_for_sizes():
    with pytest.raises(UserError, match="--patch_sizes"):
        recipe_of("cappa", patch_sizes="8,16")
