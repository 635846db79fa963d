"""Models that write as a user runs them: trained, stopped, judged and asked for texts, alike in every engine."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_pairs, metrics
from test_image_text_runs import assert_killed_goes_on_elsewhere, assert_same

from common.config import TrainConfig
from common.evaluation.captioning import read_written
from common.models import find_model
from common.models.initial import initial_parameters
from common.recipes.create import create_recipe
from common.recipes.groups import trained
from common.runs.plan import Plan
from common.system.errors import UserError
from common.weights import write_weights

MODEL = ("--model", "CapPa-T/8", "--workers", 2)
FLAGS = ("--recipe", "cappa", *MODEL, "--weights", "none", "--dataset", "pairs", "--batch", 6, "--steps", 4, "--warmup_steps", 1,
         "--precision", "float64", "--log_every", 1, "--eval_every", "val:2,captions:2", "--captions_of", 3, "--val_fraction", 0.25,
         "--checkpoint_every", 0)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with `pairs`."""
    make_pairs(tmp_path)
    return tmp_path


def asked(run, name: str, folder: Path, command: str, *flags) -> list[str]:
    """The lines that a command says with the trained model."""
    weights = ("--weights", folder / "runs" / name, "--precision", "float64")
    return run(f"{name}.{command}", *MODEL, *weights, *flags).stdout.splitlines()


JUDGED = (
    ("evaluate", "--dataset", "pairs"),
    ("evaluate", "--dataset", "pairs", "--evaluator", "captions", "--beams", 2, "--output", "written"),
    ("evaluate", "--dataset", "cifar10-sample", "--evaluator", "scoring", "--batch_eval", 250),
    ("predict", "--captions", "--prompt", "a picture", "pairs/test"),
    ("predict", "--top_p", 0.9, "--sampling_temperature", 2, "--seed", 5, "--output", "drawn.npz", "pairs/test"),
)


def test_a_trained_model_writes(run, folder):
    """What a run leaves is all that predict needs."""
    name = INSTALLED[0]
    run(f"{name}.train", *FLAGS, "--name", name, "--steps", 2, "--eval_every", 0, "--captions_of", 2)
    written = read_written(folder / "runs" / name / "captions.json")
    assert (written.split, written.num_images, [one.image for one in written.captions]) == ("test", 4, [0, 3])
    run("common.report", folder / "runs" / name)
    page = (folder / "report.html").read_text()
    assert f"{name} (PyTorch): texts of 2 test images" in page and "people: “a picture of 3”" in page
    assert page.count("data:image/jpeg") == 2
    (line,) = asked(run, name, folder, "predict", "--prompt", "a picture", "pairs/test/0.png")
    assert line.startswith("pairs/test/0.png: a picture")


@pytest.mark.slow
def test_a_run_writes_and_is_judged_alike_in_every_engine(run, folder):
    """Losses, likelihoods and texts; those of `evaluate` and `predict` are those of the run."""
    said, texts = {}, {}
    for name in INSTALLED:
        run(f"{name}.train", *FLAGS, "--name", name)
        told = {key: value for line in metrics(folder, name) for key, value in line.items()}
        assert {"test/loss", "test/nll", "test/perplexity", "captions/cider", "captions/bleu4"} <= told.keys()
        kept = read_written(folder / "runs" / name / "captions.json").captions
        assert [one.image for one in kept] == [0, 1, 3] and kept[1].references[1].endswith("cats")
        said[name] = [asked(run, name, folder, command, *flags) for command, *flags in JUDGED]
        assert f"loss {told['test/loss']:.4f}, " in said[name][0][0] and "4 images, 7 texts" in said[name][0][0]
        texts[name] = [np.load(folder / file)["tokens"].tolist() for file in ("written/test.npz", "drawn.npz")]
        assert all(": a picture" in line for line in said[name][3])
        assert len({*map(tuple, texts[name][1])}) > 1, "four pictures have the same draws"
    for name in INSTALLED[1:]:
        assert_same(metrics(folder, INSTALLED[0]), metrics(folder, name))
        assert said[name] == said[INSTALLED[0]] and texts[name] == texts[INSTALLED[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_a_killed_run_goes_on_in_another_engine(name, server, folder):
    """The same texts and hidden tokens, in parts of a batch; after 40 steps, so that there is a midst to be stopped in."""
    flags = (*FLAGS[:6], "--dataset", "pairs", "--batch_split", 2, "--resize", 32, "--crop", 32, "--log_every", 1,
             "--checkpoint_every", 2, "--precision", "float64", "--weights", "none", "--parallel", 0.5, "--masking_ratio", 0.5,
             "--lora_rank", 2, "--eval_every", 0)  # fmt: skip
    assert_killed_goes_on_elsewhere(name, server, folder, *flags, steps=40)


@pytest.mark.parametrize(
    "changes", ({}, {"pooling": "token"}, {"pooling": "map", "num_classes": 5}, {"image_size": (64, 64)}), ids=str
)
def test_an_image_tower_comes_from_a_classifier(folder, changes):
    """What it has before and behind its patches is left out, and it stays as it is."""
    own = find_model("CapPa-T/8").config()
    tower = dataclasses.replace(own.image, **{"pooling": "gap"} | changes)
    write_weights(folder / "vit.npz", values := initial_parameters(7, tower), tower)
    flags = {"recipe": "lit_decoder", "model": "CapPa-T/8", "dataset": str(folder / "pairs"), "weights": "none"}
    plan = Plan(TrainConfig(**flags, image_weights=str(folder / "vit.npz"), batch=4, steps=2, warmup_steps=1))
    arrays = plan.models["model"].arrays
    assert not {name for name in trained(plan.recipe.groups, own.parameter_shapes()) if name.startswith("image/")}
    np.testing.assert_array_equal(arrays["image/blocks/1/mlp/fc1/kernel"], values["blocks/1/mlp/fc1/kernel"])
    assert arrays["image/pos_embedding"].shape == (1, 16, 128)


@pytest.mark.parametrize(
    "content",
    (
        "[]",
        "{}",
        '{"split": "test", "num_images": 1, "captions": [{"image": 1, "text": "a", "references": []}]}',
        '{"split": 5, "num_images": 1, "captions": []}',
        "\x00",
    ),
)
def test_a_file_of_captions_is_checked(tmp_path, content):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(UserError, match="captions.json"):
        read_written(tmp_path / "captions.json")


def test_flags_of_captioning_are_numbers_of_its_task():
    flags = {"parallel": 0.25, "masking_ratio": 0.5, "label_smoothing": 0.1}
    task = create_recipe(TrainConfig(recipe="cappa", **flags), 50_000, (32, 32), {}).task
    assert {name: getattr(task, name) for name in flags} == flags


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("train", ("--recipe", "cappa", "--model", "SigLIP-T/8", "--dataset", "pairs"), "trains models that write and SigLIP-T/8"),
        ("train", ("--recipe", "cappa", "--model", "Cap-B/16", "--weights", "none", "--dataset", "pairs"), "--parallel 0.75 hides"),
        ("train", ("--recipe", "cappa", *MODEL, "--weights", "none"), "have no captions"),
        ("train", ("--recipe", "cappa", *MODEL, "--weights", "none", "--dataset", "pairs", "--mixup", 0.1), "of no use to the task"),
        ("train", ("--recipe", "cappa", *MODEL, "--weights", "none", "--dataset", "pairs", "--patch_dropout", 0.5), "of no use to the task"),
        ("train", ("--recipe", "cappa", *MODEL, "--weights", "none", "--dataset", "pairs", "--patch_sizes", "8,16"), "captioning has no use for it"),
        ("train", ("--recipe", "cappa", *MODEL, "--weights", "none", "--dataset", "pairs", "--tokens", 9), "captioning has no use for it"),
        ("train", ("--recipe", "cappa", *MODEL, "--weights", "none", "--dataset", "pairs", "--vocabulary", "pairs/train/captions.tsv"), "has SHA-256"),
        ("train", ("--recipe", "siglip", "--parallel", 0.5, "--dataset", "pairs"), "--parallel belongs to the task captioning"),
        ("predict", ("--beams", 2, "pairs/test/0.png"), "--beams is for texts that a model writes"),
        ("predict", ("--captions", "pairs/test/0.png"), "--captions is for models that write"),
        ("predict", (*MODEL, "--weights", "w.npz", "--beams", 2, "--top_p", 0.5, "pairs/test/0.png"), "give one"),
        ("predict", (*MODEL, "--weights", "w.npz", "--sampling_temperature", 2, "pairs/test/0.png"), "give --top_p, too"),
        ("predict", (*MODEL, "--weights", "w.npz", "--texts", "cat", "--", "pairs/test/0.png"), "writes its own"),
        ("predict", (*MODEL, "--weights", "w.npz", "--prompt", "a cat " * 9, "pairs/test/0.png"), "give a shorter one"),
        ("evaluate", ("--evaluator", "likelihood", "--dataset", "pairs"), "writes no texts"),
        ("evaluate", (*MODEL, "--weights", "w.npz"), "have no captions"),
        ("evaluate", (*MODEL, "--weights", "w.npz", "--evaluator", "scoring", "--output", "x"), "--output has nothing"),
        ("evaluate", (*MODEL, "--weights", "w.npz", "--evaluator", "scoring", "--prompts", "clip_best"), "scoring takes one"),
        ("evaluate", (*MODEL, "--weights", "w.npz", "--dataset", "pairs", "--beams", 2), "--beams is for texts"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(run, folder, command, flags, said):
    config = find_model("CapPa-T/8").config()
    write_weights(folder / "w.npz", initial_parameters(0, config), config)
    assert said in run(f"{INSTALLED[0]}.{command}", *flags, status=2).stderr
