"""The recipes of UViM hold the numbers of their sources; the flags of maps and codes belong to them alone."""

import json
from pathlib import Path

import pytest

from common.config import TrainConfig
from common.models import find_model
from common.models.discrete import FARTHEST, NEAREST
from common.recipes.create import create_recipe
from common.recipes.groups import parts
from common.system.errors import UserError

FACTS = json.loads((Path(__file__).parent / "golden/uvim/facts.json").read_text())["configs"]
IMAGENET = 1_281_167 - 4096  # train[4096:]
CODES = {  # field -> the original's
    "width": "width", "encoder_depth": "enc_depth", "decoder_depth": "dec_depth", "num_heads": "num_heads", "mlp_dim": "mlp_dim",
    "num_codes": "code_len", "vocabulary": "dict_size", "code_width": "codeword_dim", "momentum": "dict_momentum",
    "resizes": "bottleneck_resize", "encoder_context": "with_encoder_ctx", "decoder_context": "with_decoder_ctx",
}  # fmt: skip


def recipe_of(name: str, count: int = IMAGENET, **flags):
    return create_recipe(TrainConfig(recipe=name, **flags), count, (500, 400), {})


def check_model(target: str, given: dict) -> None:
    """The published model of a target has the sizes of a configuration."""
    config = find_model(f"UViM-B/16-{target}").config()
    assert {field: getattr(config, field) for field in CODES} == {field: given[CODES[field]] for field in CODES}
    assert (config.image_size, config.patch_size) == (tuple(given["input_size"]), tuple(given["patch_size"]))
    assert given["inputs"] == given["outputs"]
    assert {name: [bins, 256] for name, bins in zip(config.names, config.bins)} == given["inputs"]
    assert config.least_count == 0.1  # the default of `models/proj/uvim/vit.py`


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("uvim_color", "vqvae_imagenet2012_colorization", "colorization"),
        ("uvim_panoptic", "vqvae_coco_panoptic", "panoptic"),
    ],
)
def test_the_first_stage_is_the_configuration_of_big_vision(name, source, target):
    values = FACTS[source]["values"]
    recipe = recipe_of(name)
    assert recipe.batch == values["input"]["batch_size"]
    assert recipe.num_steps == round(values["total_epochs"] * IMAGENET / recipe.batch)
    assert values["schedule"] == {"decay_type": "cosine", "warmup_steps": 4000}
    assert recipe.lrs[4000] == values["lr"] == recipe.base_lr and recipe.lrs[0] == 0
    assert (recipe.weight_decay, recipe.clip, recipe.decay) == (values["wd"], values["grad_clip_norm"], "independent")
    assert (values["optax_name"], values["optax"]) == ("big_vision.scale_by_adafactor", {"beta2_cap": recipe.beta2})
    assert (recipe.optimizer, recipe.first_moment, recipe.beta1) == ("adafactor", "bfloat16", 0.9)
    task = recipe.task
    assert (task.target, task.code_dropout) == (target, values["model"]["code_dropout"])
    assert (task.commitment_weight, task.frozen_codebook) == (values["w_commitment"], values["freeze_dict"])
    assert "inception_" in values["input"]["pp"] and "512" in values["input"]["pp"] and "fl" in values["input"]["pp"]
    assert (recipe.crop, recipe.crop_min_area, recipe.flip, recipe.eval_resize) == (512, 0.05, 0.5, 0)
    check_model(target, values["model"])


def test_depth_differs_from_it_by_its_rate():
    """Its file does not run, so no value of it is known; of the second stage's, which does, the model is."""
    assert "SyntaxError" in FACTS["vqvae_nyu_depth"]["could_not_run"]
    recipe, other = (recipe_of(name, 47_584) for name in ("uvim_depth", "uvim_color"))
    assert (recipe.base_lr, recipe.weight_decay, recipe.task.target) == (1e-3, 1e-5, "depth")
    assert recipe.num_steps == round(200 * 47_584 / 1024)
    same = ("batch", "clip", "decay", "optimizer", "beta2", "first_moment", "crop", "crop_min_area", "flip")
    assert all(getattr(recipe, field) == getattr(other, field) for field in same)
    given = FACTS["train_nyu_depth_pretrained"]["values"]["oracle"]
    check_model("depth", given["model"] | {"dict_momentum": 0.995})
    assert (NEAREST, FARTHEST) == (given["min_depth"], given["max_depth"])


def test_flags_replace_its_numbers():
    recipe = recipe_of("uvim_color", commitment_weight=0.5, code_dropout="none", frozen_codebook=True)
    assert (recipe.task.commitment_weight, recipe.task.code_dropout, recipe.task.frozen_codebook) == (0.5, "none", True)


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("uvim_color", {"mixup": 0.2}, "--mixup 0.2 is of no use to the task dense"),
        ("uvim_color", {"rho": 0.1}, "--rho 0.1 is of no use to the task dense"),
        ("uvim_color", {"label_smoothing": 0.1}, "--label_smoothing belongs to the tasks"),
        ("cappa", {"code_dropout": "random"}, "--code_dropout belongs to the task dense"),
        ("bit_finetune", {"frozen_codebook": True}, "--frozen_codebook belongs to the task dense"),
    ],
)
def test_flags_without_use_are_refused(name, flags, words):
    with pytest.raises(UserError, match=words):
        recipe_of(name, **flags)


def test_the_second_stage_is_the_configuration_of_big_vision():
    values = FACTS["train_imagenet2012_colorization_pretrained"]["values"]
    recipe = recipe_of("uvim_codes", oracle="runs/colours")
    assert recipe.batch == values["input"]["batch_size"] and recipe.task.oracle == "runs/colours"
    assert recipe.num_steps == round(values["total_epochs"] * IMAGENET / recipe.batch)
    assert values["schedule"] == {"decay_type": "cosine", "warmup_steps": 4000}
    assert recipe.lrs[4000] == values["lr"] == recipe.base_lr and recipe.lrs[0] == 0
    assert (recipe.weight_decay, recipe.clip, recipe.decay) == (values["wd"], 0.0, "independent")
    assert (values["optax_name"], values["optax"]) == ("big_vision.scale_by_adafactor", {"beta2_cap": recipe.beta2})
    rates = dict(
        zip(
            ("image/pos_embedding", "image/blocks/0/mlp/fc1/kernel", "pos_embedding", "blocks/0/mlp/fc1/kernel"),
            (0.1, 0.1, 1, 1),
        )
    )
    assert [part.rate for part in parts(recipe.groups, tuple(rates))] == [*rates.values()]
    assert {rate for _, rate in values["lr_mults"]} == {0.1, 1.0}
    assert (recipe.crop, recipe.crop_min_area, recipe.flip, recipe.eval_resize) == (512, 0.05, 0.5, 0)
    model, given = find_model("VTT-L/16").config(), values["model"]
    assert (model.depth, model.image.depth, model.width, model.num_heads, model.mlp_dim) == (
        given["num_layers"], given["num_layers"], given["emb_dim"], given["num_heads"], given["mlp_dim"]
    )  # fmt: skip
    assert (model.length, model.vocabulary, model.image_size) == (given["seq_len"], given["vocab_size"], (512, 512))
    check_model("colorization", values["oracle"]["model"] | {"dict_momentum": 0.995})
    with pytest.raises(UserError, match="Codes need an oracle that makes them of maps"):
        recipe_of("uvim_codes")
