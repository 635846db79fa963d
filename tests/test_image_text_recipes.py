"""The recipes of images and texts hold the numbers of their sources; their flags belong to them alone."""

import functools
import json
import math
import re
from pathlib import Path

import pytest

from common.config import TrainConfig
from common.models import find_model
from common.recipes.create import create_recipe
from common.recipes.groups import trained
from common.system.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("image/head/kernel", "image/stem/kernel", "text/head/kernel", "text/stem/embedding", "t", "b")


def recipe_of(name: str, count: int = 50_000, **flags):
    return create_recipe(TrainConfig(recipe=name, **flags), count, (32, 32), {})


def test_siglip_lit_is_the_configuration_of_big_vision():
    values = json.loads((GOLDEN / "siglip/facts.json").read_text())["configs"]["siglip_lit_coco"]["values"]
    recipe = recipe_of("siglip_lit")
    (pattern, none), (_, schedule) = values["schedule"]
    assert (pattern, none, schedule) == ("img/.*", None, {"decay_type": "cosine", "warmup_steps": 150})
    assert recipe.batch == values["input"]["batch_size"] and recipe.num_steps == values["total_steps"]
    assert max(recipe.lrs) == values["lr"] == recipe.lrs[150] and recipe.lrs[75] == values["lr"] / 2
    assert (recipe.weight_decay, recipe.clip) == (
        values["wd"],
        values["grad_clip_norm"],
    ) and recipe.decay == "independent"
    task, model = recipe.task, values["model"]
    assert (task.first_temperature, task.first_bias) == (model["temperature_init"], model["bias_init"])
    assert "resize(224)|flip_lr|randaug(2,10)" in values["input"]["pp"]
    assert (recipe.crop, recipe.resize, recipe.flip) == (224, 224, 0.5)
    assert (recipe.randaugment_layers, recipe.randaugment_magnitude) == (2, 10)
    assert trained(recipe.groups, NAMES) == {"text/head/kernel", "text/stem/embedding", "t", "b"}


def test_cappa_is_the_configuration_of_big_vision():
    values = json.loads((GOLDEN / "cappa/facts.json").read_text())["configs"]["pretrain"]["values"]
    recipe, schedule, model = recipe_of("cappa"), values["schedule"], values["model"]
    assert schedule == {"decay_type": "cosine", "warmup_steps": 10_000}
    assert recipe.batch == values["input"]["batch_size"] and recipe.num_steps == values["total_steps"]
    assert recipe.lrs[schedule["warmup_steps"]] == values["lr"] == recipe.base_lr
    assert (recipe.weight_decay, recipe.clip, recipe.decay) == (values["wd"], values["grad_clip_norm"], "independent")
    assert (values["optax_name"], values["optax"]) == ("big_vision.scale_by_adafactor", {"beta2_cap": recipe.beta2})
    assert (recipe.optimizer, recipe.first_moment) == ("adafactor", "bfloat16")
    task = recipe.task
    assert (task.parallel, task.masking_ratio) == (model["masked_pred_prob"], model["masking_ratio"])
    assert task.label_smoothing == values["label_smoothing"]
    assert "resize(224)|value_range(-1,1)|" in values["input"]["pp"] and (recipe.resize, recipe.flip) == (224, 0)
    config = find_model("CapPa-B/16").config()
    sizes = config.width, config.image.depth, config.depth, config.num_heads, config.mlp_dim
    assert sizes == tuple(
        model[name] for name in ("emb_dim", "num_layers", "decoder_num_layers", "num_heads", "mlp_dim")
    )
    assert (config.vocabulary, config.length, config.bias) == (
        model["vocab_size"],
        model["seq_len"],
        model["decoder_bias"],
    )
    text = find_model("CapPa-B/16").text
    assert 'max_len=64, model="c4_en", eos="sticky"' in values["input"]["pp"]
    assert (text.vocabulary, text.length, text.end, text.padding) == ("c4_en.model", 64, "sticky", 0)


def test_lit_decoder_trains_the_decoder_alone():
    recipe = recipe_of("lit_decoder")
    assert trained(recipe.groups, ("image/stem/kernel", "stem/embedding", "blocks/0/attn/key/kernel")) == {
        "stem/embedding",
        "blocks/0/attn/key/kernel",
    }
    assert recipe.task.parallel == 0


def test_task_rewards_draws_samples_of_the_model_itself():
    """As REINFORCE needs them: from all tokens, at temperature 1. The other numbers are this project's."""
    recipe = recipe_of("task_rewards")
    assert (recipe.task.name, recipe.task.reward, recipe.task.samples, recipe.batch, recipe.num_steps) == (
        "rewarded", "cider", 2, 256, 10_000
    )  # fmt: skip
    assert (recipe.task.sampling.top_p, recipe.task.sampling.temperature, recipe.task.sampling.beams) == (1, 1, 1)


def test_lit_is_siglip_lit_with_the_loss_of_clip():
    lit, other = recipe_of("lit"), recipe_of("siglip_lit")
    assert (lit.task.loss, other.task.loss) == ("softmax", "sigmoid") and lit.lrs == other.lrs
    assert trained(lit.groups, NAMES) == {
        "text/head/kernel",
        "text/stem/embedding",
        "t",
    }  # its loss does not depend on b


def test_clippo_is_the_configuration_of_big_vision():
    values = json.loads((GOLDEN / "text/facts.json").read_text())["configs"]["clippo"]["values"]
    recipe, schedule = recipe_of("clippo"), values["schedule"]
    assert recipe.batch == values["input"]["batch_size"] and recipe.num_steps == values["total_steps"]
    assert recipe.lrs[schedule["warmup_steps"]] == values["lr"] and recipe.weight_decay == values["wd"]
    assert recipe.lrs[200] == pytest.approx(values["lr"] / 2**0.5) and schedule["timescale"] == 100
    assert recipe.lrs[350] == pytest.approx(values["lr"] / 3.5**0.5 * 50 / schedule["cooldown_steps"])
    assert recipe.task.first_temperature == values["model"]["temperature_init"] and recipe.task.loss == "softmax"
    assert values["optax_name"] == f"big_vision.scale_by_{recipe.optimizer}" and recipe.first_moment == "bfloat16"


def test_clip_and_siglip_are_those_of_the_papers():
    clip, siglip = recipe_of("clip", count=400_000_000), recipe_of("siglip")
    assert clip.num_steps == 32 * 400_000_000 // 32_768 and max(clip.lrs) == 5e-4 == clip.lrs[2000]
    assert (clip.beta2, clip.epsilon, clip.weight_decay, clip.decay) == (0.98, 1e-6, 0.2, "decoupled")
    assert clip.task.first_temperature == pytest.approx(1 / 0.07) and clip.resize_mode == "small_side"
    assert siglip.num_steps * siglip.batch == pytest.approx(40e9, rel=1e-6) and max(siglip.lrs) == 1e-3
    assert (siglip.weight_decay, siglip.clip, siglip.task.first_bias) == (1e-4, 1, -10)


def test_three_towers_are_siglip_with_the_loss_of_clip_and_a_third_tower():
    recipe, other = recipe_of("three_towers", third_tower="BiT-T-R26x0.5"), recipe_of("siglip")
    assert (recipe.task.loss, recipe.task.third_tower) == ("softmax", "BiT-T-R26x0.5") and recipe.lrs == other.lrs
    assert (recipe.weight_decay, recipe.beta2, other.task.third_tower) == (other.weight_decay, other.beta2, "")


def bounds_of_t(recipe) -> tuple[float, float] | None:
    t, *others = recipe.parts(("t", *(name for name in NAMES if name != "t")))
    assert not any(part.bounds for part in others)
    return t.bounds


def test_clip_alone_keeps_the_temperature_within_bounds():
    clip = functools.partial(recipe_of, "clip", warmup_steps=1)
    assert bounds_of_t(clip()) == (0, math.log(100))  # as its paper and open_clip
    assert bounds_of_t(recipe_of("siglip", most_temperature=50.0)) == (0, math.log(50))
    for recipe in (recipe_of("siglip"), recipe_of("lit"), recipe_of("clippo"), clip(most_temperature=0.0)):
        assert bounds_of_t(recipe) is None
    with pytest.raises(UserError, match="--most_temperature is 0.5, expected at least 1"):
        recipe_of("siglip", most_temperature=0.5)
    with pytest.raises(
        UserError, match="--first_temperature 200 is above --most_temperature 100; give at most as much"
    ):
        clip(first_temperature=200.0)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"most_temperature": 64.0}, bounds_of_t),
        ({"chunk": 64}, lambda r: r.task.chunk),
        ({"first_temperature": 5.0}, lambda r: r.task.first_temperature),
        ({"first_bias": -3.0}, lambda r: r.task.first_bias),
        ({"third_tower": "runs/third"}, lambda r: r.task.third_tower),
    ],
)
def test_a_flag_replaces_a_number_of_the_task_and_belongs_to_it(flags, found):
    ((name, value),) = flags.items()
    value = (0, math.log(value)) if found is bounds_of_t else value
    assert found(recipe_of("siglip_lit", **flags)) == value != found(recipe_of("siglip_lit"))
    with pytest.raises(UserError, match=f"--{name} belongs to the task contrastive; classification has no use for it"):
        create_recipe(TrainConfig(**flags), 50_000, (32, 32), {})


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--locked", ".*"),
            "error: Nothing of SigLIP-T/8 is left to train, which has .* change --train_only or --locked.",
        ),
        (
            ("--locked", "img/.*"),
            "error: --locked img/.* fits no parameter, such as image/stem/kernel; correct the pattern.",
        ),
        (
            ("--model", "BiT-T-R26x0.5"),
            "error: --recipe siglip_lit trains image-text models and BiT-T-R26x0.5 takes no texts",
        ),
        (
            ("--dataset", "cifar10-sample"),
            "error: The images of this dataset have no captions, which the model is to be trained",
        ),
        (("--text_weights", "none_such.npz"), "error: .*none_such.npz"),
        (("--zero_shot", "none_such"), "error: .*none_such"),
        (("--chunk", "3"), "error: --chunk 3 does not divide the batch of 8"),
        (("--mixup", "0.2"), "error: --mixup 0.2 is of no use to the task contrastive; leave it out."),
        (("--dropout", "0.1"), "error: --dropout 0.1 is of no use to the task contrastive; leave it out."),
        (("--stochastic_depth", "0.1"), "error: --stochastic_depth 0.1 is of no use to the task contrastive; leave it"),
        (
            ("--first_temperature", "5"),
            "error: --first_temperature is for a new model, .* leave it out, or give --weights none.",
        ),
        (
            ("--model", "CLIP-B/32", "--weights", "none", "--recipe", "clip", "--first_bias", "-1"),
            "error: --first_bias is for models that add a bias, and CLIP-B/32 adds none; leave it out.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_one_sentence(run, tmp_path, flags, sentence):
    """By the command: status 2, and nothing is left behind."""
    given = (
        "--recipe",
        "siglip_lit",
        "--model",
        "SigLIP-T/8",
        "--dataset",
        "captions-sample",
        "--batch",
        "8",
        "--steps",
        "2",
    )
    given += ("--warmup_steps", "1", "--crop", "32")
    assert re.match(sentence, run("bit_pytorch.train", *given, *flags, status=2).stderr) and not [*tmp_path.iterdir()]


def test_chunks_of_another_size_are_refused():
    with pytest.raises(UserError, match="--chunk 100 does not divide the batch of 512; choose a divisor, or 0 for all"):
        recipe_of("siglip_lit", chunk=100)


def test_a_model_sees_images_at_its_own_size():
    recipe = create_recipe(TrainConfig(recipe="siglip_lit"), 50_000, (32, 32), {}, 32)
    assert (recipe.crop, recipe.resize) == (32, 32)
    recipe = create_recipe(TrainConfig(recipe="siglip_lit", crop=64), 50_000, (32, 32), {}, 32)
    assert (recipe.crop, recipe.resize) == (64, 64)
    assert create_recipe(TrainConfig(recipe="augreg"), 5_000_000, (32, 32), {}, 32).crop == 224


def test_a_part_of_a_tower_is_locked():
    recipe = recipe_of("siglip_lit", locked="image/(?!head/).*")
    assert trained(recipe.groups, NAMES) == {*NAMES} - {"image/stem/kernel"}
    with pytest.raises(UserError, match=r"--locked is '\(', expected a regular expression"):
        recipe_of("siglip_lit", locked="(")
