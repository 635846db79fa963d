"""Models of maps as a user trains them: stopped and taken up by another engine, the same in every engine."""

import numpy as np
import pytest
from engines import INSTALLED
from jobs import metrics
from test_image_text_runs import assert_killed_goes_on_elsewhere, assert_same

from common.config import TrainConfig
from common.data.batches import TrainBatches
from common.models import find_model
from common.models.initial import initial_parameters
from common.runs.plan import Plan
from common.system.errors import UserError
from common.weights import write_weights
from common.weights.source import read_model

MODEL = ("--model", "UViM-T/8-colorization", "--workers", 2)
FLAGS = ("--recipe", "uvim_color", *MODEL, "--weights", "none", "--dataset", "cifar10-sample", "--batch", 6, "--steps", 4,
         "--warmup_steps", 1, "--precision", "float64", "--log_every", 1, "--eval_every", 2, "--val_fraction", 0.02,
         "--batch_eval", 100, "--checkpoint_every", 0)  # fmt: skip


def test_a_trained_model_of_maps_is_left_in_the_layout_of_its_source(run, tmp_path):
    """Parameters below `params/`, the codebook, which has moved, below `state/`; the run tells what it measured."""
    name = INSTALLED[0]
    run(f"{name}.train", *FLAGS, "--name", name, "--steps", 2, "--eval_every", 0)
    with np.load(tmp_path / "runs" / name / "weights.npz") as file:
        assert {key.split("/")[0] for key in file.files if "/" in key} >= {"params", "state"}
        assert not np.allclose(file["state/counts"], 1) and file["params/embedding_color/kernel"].shape == (3, 64, 128)
    source = read_model(tmp_path / "runs" / name / "weights.npz")
    assert source.config == find_model("UViM-T/8-colorization").config() and source.spelling == "big_vision"
    (line, *_, last) = metrics(tmp_path, name)
    found = ("loss", "reconstruction", "commitment", "codebook_zeros_ratio", "codebook_max_ratio")
    assert {f"train/{one}" for one in found} <= {*line} and {"test/psnr", "test/mse"} <= {*last}
    assert line["train/codebook_zeros_ratio"] > 0.5  # six maps have 96 vectors, and there are 256 words


@pytest.mark.slow
@pytest.mark.parametrize("further", ((), ("--ema", 0.9, "--batch_split", 2, "--commitment_weight", 0.25)), ids=str)
def test_a_run_is_the_same_in_every_engine(run, tmp_path, further):
    """What steps measured, and how good maps are, averaged parameters or not."""
    for name in INSTALLED:
        run(f"{name}.train", *FLAGS, *further, "--name", name)
    for name in INSTALLED[1:]:
        assert_same(metrics(tmp_path, INSTALLED[0]), metrics(tmp_path, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_a_killed_run_goes_on_in_another_engine(name, server, tmp_path):
    """Its codebook, too, which is no part of an optimizer's state."""
    flags = (*FLAGS, "--batch_split", 2, "--resize", 32, "--crop", 32, "--checkpoint_every", 2, "--eval_every", 0)
    assert_killed_goes_on_elsewhere(name, server, tmp_path, *flags, steps=40)


def plan_of(**flags) -> Plan:
    """The plan of a run on the embedded images."""
    given = {"recipe": "uvim_color", "model": "UViM-T/8-colorization", "weights": "none", "dataset": "cifar10-sample"}
    return Plan(TrainConfig(**given | {"batch": 8, "steps": 3, "warmup_steps": 1} | flags))


def batches_of(plan: Plan, process: int = 0, num_processes: int = 1) -> dict[str, np.ndarray]:
    """A batch of the second step, as one of some processes has it."""
    columns = plan.task.columns(plan, plan.splits["train"], train=True)
    share = process, num_processes
    batches = TrainBatches(plan.splits["train"], plan.recipe, 3, *share, plan.model_config, columns)
    batch, jobs = batches.jobs(1)
    for job in jobs:
        job()
    return batch


def test_what_a_step_draws_depends_on_its_number_alone():
    """The codes that are kept, each process's own, and the seed of new words, which all have."""
    plan = plan_of()
    whole, parts = batches_of(plan), [batches_of(plan, number, 2) for number in range(2)]
    assert {*whole} == {"images", "maps", "kept_codes", "renewal_seed"}
    assert np.array_equal(whole["kept_codes"], np.concatenate([part["kept_codes"] for part in parts]))
    assert {int(part["renewal_seed"]) for part in parts} == {int(whole["renewal_seed"])}
    assert whole["renewal_seed"].dtype == np.int32 and whole["kept_codes"].shape == (8, 16)


@pytest.mark.parametrize("kind", ("last", "random"))
def test_code_dropout_keeps_a_number_of_codes_drawn_evenly(kind):
    """Source: `decode` of big_vision's `models/proj/uvim/vit.py`. The last ones are left out, or any."""
    plan = plan_of(batch=500, code_dropout=kind)
    kept = batches_of(plan)["kept_codes"]
    counts = np.bincount(kept.sum(1), minlength=17)
    assert len(counts) == 17 and abs(counts - 500 / 17).max() < 25
    first_ones = (np.diff(kept.astype(int), axis=1) <= 0).all(1)
    assert first_ones.all() if kind == "last" else first_ones.mean() < 0.5
    assert abs(kept[:, 0].mean() - (1 - 1 / 17 if kind == "last" else 0.5)) < 0.1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"model": "ViT-B/16"}, "trains VQ-VAEs of colorization and ViT-B/16 is none; choose a --model such as UViM-T/8-col"),
        ({"model": "UViM-T/8-depth"}, "trains VQ-VAEs of colorization and UViM-T/8-depth is none"),
        ({"recipe": "uvim_depth", "model": "UViM-T/8-depth"}, "have no maps, and depth needs maps of depth"),
        ({"weights": "w.npz", "crop": 64, "resize": 64}, "takes 32 x 32 pixels, to which its positions are bound"),
        ({"weights": "w.npz", "model": "UViM-B/16-colorization"}, "w.npz"),
        ({"crop": 36, "resize": 36}, "do not divide an image"),
        ({"patch_size": 4}, "--patch_size 4 is for ViTs"),
        ({"model": "UViM-T/8-colorization-FSQ", "frozen_codebook": True}, "--frozen_codebook is for codebooks"),
        ({"model": "UViM-T/8-colorization-FSQ", "commitment_weight": 0.5}, "--commitment_weight is for codebooks"),
        ({"lora_rank": 2}, "--lora_rank 2 adapts"),
        ({"train_only": "head"}, "is left to train"),
        ({"keep_best": True}, "--keep_best needs a val split"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, flags, words):
    config = find_model("UViM-T/8-colorization").config()
    write_weights(tmp_path / "w.npz", initial_parameters(0, config), config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as found:
        plan_of(**flags)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("export", ("--to", "onnx", "--output", "a.onnx"), "takes maps, and graphs here take images alone"),
        (
            "evaluate",
            ("--features", "pooled", "--output", "x", "--dataset", "cifar10-sample"),
            "--features are of images",
        ),
    ],
)
def test_what_is_for_models_of_images_alone_is_refused(run, tmp_path, command, flags, said):
    config = find_model("UViM-T/8-colorization").config()
    write_weights(tmp_path / "w.npz", initial_parameters(0, config), config)
    name = "bit_pytorch" if "bit_pytorch" in INSTALLED else INSTALLED[0]
    assert said in run(f"{name}.{command}", *MODEL[:2], "--weights", "w.npz", *flags, status=2).stderr
