"""Runs of a ViT on images at their own aspect ratio: begun, gone on with, evaluated; and what train refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED, Engine
from jobs import metrics, places_of
from PIL import Image
from test_flexivit_runs import FLAGS as OF_RUNS
from test_flexivit_runs import ORDERS, train

from common.config import EvaluateConfig, PredictConfig, TrainConfig
from common.data.batches import TrainBatches
from common.models import find_model
from common.runs.command import parse
from common.runs.inference import Evaluation
from common.runs.jobs import prediction
from common.runs.run import Run
from common.system.errors import UserError
from common.weights.source import read_model

SIZES = ((30, 40), (40, 30), (24, 40), (36, 36), (7, 50))
FLAGS = {"crop": None, "patch_size": None, "patch_sizes": None, "batch_eval": 7, "mixup": 0.0, "examples_per_class": None,
         "token_lengths": "4,6,9:2", "tokens": 8}  # fmt: skip


@pytest.fixture
def photos(tmp_path) -> str:
    """A folder of images of many sizes: 20 to train with and 10 to test."""
    for number in range(30):
        path = tmp_path / "photos" / ("train", "test")[number >= 20] / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number % 5], 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return str(tmp_path / "photos")


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_a_run_goes_on_with_the_lengths_of_its_steps(first, second, photos, monkeypatch, tmp_path):
    """After the checkpoint of step 3, in the same engine or in another one; and its weights say what they are."""
    flags = FLAGS | {"dataset": photos}
    whole = train(INSTALLED[0], tmp_path, name="whole", **flags)
    train(first, tmp_path, monkeypatch, **flags)
    with pytest.raises(UserError, match="token_lengths"):
        train(first, tmp_path, **flags | {"token_lengths": "4,6"})
    losses = train(second, tmp_path, **flags)
    assert len(losses) == len(whole) == 8
    np.testing.assert_allclose(losses, whole, rtol=1e-9)
    found, expected = (read_model(tmp_path / "runs" / name) for name in ("a", "whole"))
    assert found.config == find_model("ViT-mu/16").config(2).as_naflex()
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_run_is_evaluated_as_it_was_trained_or_with_other_tokens(photos, tmp_path):
    """The card says how many patches; a ViT's name is enough, and flags of one size are refused."""
    train(INSTALLED[0], tmp_path, **FLAGS | {"dataset": photos, "steps": 2, "checkpoint_every": 0})
    told, found = metrics(tmp_path, "a")[-1], {}
    flags = {"model": "ViT-mu/16", "weights": str(tmp_path / "runs" / "a"), "dataset": photos, "precision": "float64"}
    engine = Engine(INSTALLED[0])
    for tokens in (None, 8, 20):
        job = Evaluation(EvaluateConfig(**flags, tokens=tokens))
        batch = next(job.batches("test"))
        assert batch["patch_mask"].shape == (10, tokens or 8)
        model = engine.build(job.model_config, job.arrays, "float64", preprocessing=job.preprocessing)
        found[tokens] = engine.evaluate(model, job.prepared(job.eval_batches(job.splits["test"])))
    assert found[None] == found[8] != found[20]
    assert found[8]["loss"] == pytest.approx(told["test/loss"], rel=1e-6)
    words = ["--model", "ViT-mu/16", "--weights", flags["weights"], "--map", "pca", "--output", str(tmp_path), photos]
    maps = prediction(parse(PredictConfig, words, "predict", ""))
    seen = next(maps.batches())["patch_mask"].sum(1).tolist()
    assert [math.prod(maps.seen(maps.split.decode(i))[1]) for i in range(30)] == seen and max(seen) == 8
    with pytest.raises(UserError, match="--resolution is for models of one size of images and ViT-mu/16 keeps"):
        Evaluation(EvaluateConfig(**flags, resolution=32))
    with pytest.raises(UserError, match="nothing says of how many patches they are at most; give --tokens, such as"):
        Run(config_of(tmp_path, photos, token_lengths=None, tokens=None, weights=flags["weights"]), "numpy")


def config_of(folder: Path, photos: str, **flags) -> TrainConfig:
    own = {
        "dataset": photos,
        "model": "ViT-mu/16",
        "weights": "none",
        "recipe": "vit_s16_i1k",
        "mixup": 0.0,
        "batch": 4,
    }
    own |= {"steps": 2, "warmup_steps": 1, "logdir": str(folder / "runs"), "name": "b", "tokens": 9}
    return TrainConfig(**own | flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tokens": 0}, "--tokens is 0, expected at least 1"),
        ({"token_lengths": "0,4"}, "--token_lengths is 0,4, expected numbers of patches"),
        ({"patch_sizes": "8,16"}, "--patch_sizes is for images of one size and --tokens keeps their aspect ratio"),
        ({"crop": 32}, "--crop is for images of one size and --tokens keeps"),
        ({"tokens": None, "token_lengths": "4,9", "patch_size": 8}, "--patch_size is for .* and --token_lengths keeps"),
        ({"resize_mode": "squash"}, "--resize_mode is for images of one size"),
        ({"mixup": 0.2}, r"Mixup 0\.2 blends images of one shape and --tokens keeps .* give --mixup 0\."),
        ({"patch_dropout": 0.5}, "--patch_dropout 0.5 is for ViTs that pool"),
        ({"recipe": "flexivit_i21k"}, "--patch_sizes is for images of one size"),
        ({"recipe": "flexivit_i1k"}, "--tokens belongs to the tasks classification and contrastive"),
        ({"model": "Mixer-B/16"}, "--tokens and --token_lengths are for ViTs, which have patches; leave them out"),
        ({"model": "R50+ViT-B/16"}, "A NaFlex has learned positions, no backbone"),
        ({"model": "BiT-S-R50x1"}, "--tokens and --token_lengths are for ViTs"),
        ({"tokens": 11_000, "batch": 2048}, "--batch 2048 of 11000 patches is 17 GiB of pixels, expected at most 16"),
    ],
    ids=str,
)
def test_flags_that_do_not_go_together(flags, words, photos, tmp_path):
    with pytest.raises(UserError, match=words):
        Run(config_of(tmp_path, photos, **flags), engine="numpy")
    assert not (tmp_path / "runs").exists()


def test_much_padding_is_told_before_the_first_step(photos, tmp_path):
    """With a number of patches that fits the images better; and the summary says what the model sees."""
    for path in Path(photos).rglob("*.png"):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)
    run = Run(
        config_of(tmp_path, photos, token_lengths="16,108", resize_mode="whole", crop_min_area=1.0), engine="numpy"
    )
    assert run.plan.notes == ["Of 16 tokens 25% are padding for images of these aspect ratios, and of 12 0%."]
    assert "whole images -> at most 16, 108 patches" in run.plan.summary("numpy")
    assert run.plan.preprocessing.tokens == 9 and run.plan.preprocessing.resolution is None


def test_an_image_too_long_is_named_and_a_long_one_is_seen(photos, tmp_path):
    """One of 5,000 x 1 pixels has one row of patches; none is too short."""
    for path in Path(photos).rglob("*.png"):
        Image.fromarray(np.zeros((1, 5000, 3), np.uint8)).save(path)
    run = Run(config_of(tmp_path, photos, tokens=80), engine="numpy")
    batch = first_batch(run)
    assert batch["coordinates"][:, :, 0].max() <= 1 and batch["patch_mask"].sum(1).min() > 64
    for path in Path(photos).rglob("*.png"):
        Image.new("L", (2_000_000, 1)).save(path)
    with pytest.raises(UserError, match=r"\.png has .* x 1 pixels, too long for --tokens 1 at any scale; give more"):
        first_batch(Run(config_of(tmp_path, photos, tokens=1, on_broken_image="stop"), engine="numpy"))


def first_batch(run: Run) -> dict[str, np.ndarray]:
    split = run.plan.splits["train"]
    columns = run.plan.task.columns(run.plan, split, train=True)
    batch, jobs = TrainBatches(split, run.recipe, 0, config=run.plan.model_config, columns=columns).jobs(0)
    for job in jobs:
        job()
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)))
@pytest.mark.parametrize("name", INSTALLED)
def test_two_processes_train_as_one(name, server, run, photos, tmp_path, flag):
    if flag and name == "bit_tf2":
        pytest.skip("TensorFlow keeps all parameters on every device")
    flags = OF_RUNS | FLAGS | {"dataset": photos}
    words = [word for key, value in flags.items() if value is not None for word in (f"--{key}", value)]
    run(f"{name}.train", *words, "--name", "one")
    variables = {"CUDA_VISIBLE_DEVICES": ""}
    started = [
        server(name).start(f"{name}.train", (*words, "--name", "two", *flag), tmp_path, variables | place)
        for place in places_of(2)
    ]
    assert [process.wait(300) for process in started] == [0, 0], started[0].output
    one, two = (metrics(tmp_path, which) for which in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        losses = [line[key] for line in (a, b) for key in ("train/loss", "test/loss") if key in line]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
