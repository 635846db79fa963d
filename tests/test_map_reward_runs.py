"""Runs that are tuned by the metric of maps, as a user starts them, and what is refused."""

import json

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_images, metrics
from test_captioning_devices import train  # noqa: F401  a fixture
from test_coded_devices import CASES, assert_alike_everywhere
from test_coded_runs import make_maps
from test_image_text_runs import assert_killed_goes_on_elsewhere, assert_same
from tiny_models import random_arrays

from common.config import TrainConfig
from common.evaluation.shown import read_shown
from common.models import find_model
from common.models.cards import Card
from common.models.initial import initial_parameters
from common.reports.record import accuracy, read_record
from common.runs.command import parse
from common.runs.plan import Plan
from common.system.errors import UserError
from common.weights import write_weights

ORACLES = {"oracle.npz": "UViM-T/8-colorization", "depth.npz": "UViM-T/8-depth"}
MODEL = ("--model", "VTT-T/8", "--dataset", "images", "--workers", 1)
TUNED = ("--recipe", "task_rewards", "--reward", "psnr", *MODEL, "--weights", "codes.npz", "--oracle", "oracle.npz",
         "--batch", 4, "--steps", 4, "--warmup_steps", 1, "--precision", "float64", "--log_every", 1, "--val_fraction", 0.25,
         "--samples", 3, "--resize", 32, "--crop", 32, "--mixup", 0)  # fmt: skip

SPREAD = (*TUNED, "--batch", 8, "--batch_eval", 3, "--eval_every", 2, "--checkpoint_every", 0)


@pytest.fixture
def folder(tmp_path):
    """A folder with `images`, oracles whose codes make a difference, and weights that write codes of the first one."""
    make_images(tmp_path)
    for file, name in ORACLES.items():
        config = find_model(name).config()
        write_weights(tmp_path / file, random_arrays(config), config)
    config = find_model("VTT-T/8").config()
    values = initial_parameters(0, config)
    values["head/kernel"] += np.random.default_rng(1).normal(0, 0.1, values["head/kernel"].shape)  # some are likelier
    write_weights(tmp_path / "codes.npz", values, config)
    write_weights(tmp_path / "others.npz", values, config, Card(oracle="SHA-256 of another file"))
    return tmp_path


def test_a_run_is_tuned_and_judged_by_its_maps(run, folder):
    """Rewards are logged, the best step is chosen by PSNR, pictures are left; `evaluate` says the same of the weights."""
    name = INSTALLED[0]
    run(f"{name}.train", *TUNED, "--name", "tuned", "--steps", 2, "--keep_best", "--eval_every", 1)
    lines, where = metrics(folder, "tuned"), folder / "runs/tuned"
    assert [line["step"] for line in lines if "train/reward" in line] == [1, 2]
    told = {key: value for line in lines for key, value in line.items()}
    assert {"val/psnr", "val/mse", "test/psnr", "test/mse"} <= told.keys() and "val/loss" not in told
    assert 0 < told["train/reward"] < 20 and abs(told["train/loss"]) > 1e-4
    assert read_shown(where / "maps.png").shape == (8 * 96, 3 * 96 + 2, 3)
    task = json.loads((where / "recipe.json").read_text())["task"]
    assert (task["reward"], task["oracle"], task["samples"]) == ("psnr", "oracle.npz", 3)
    assert json.loads((where / "card.json").read_text())["oracle"].startswith("SHA-256 ")
    both = ("--weights", "runs/tuned", "--oracle", "oracle.npz", "--precision", "float64")
    assert accuracy(read_record(where)) == ("test/psnr", told["test/psnr"])
    said = run(f"{name}.evaluate", *MODEL, *both).stdout
    assert said.startswith(f"images test, 14 images: PSNR in dB {told['test/psnr']:.4f}, ")


@pytest.mark.slow
def test_runs_are_alike_in_every_engine(run, folder):
    """Every logged number, and the maps that are predicted with what was tuned."""
    drawn = {}
    for name in INSTALLED:
        run(f"{name}.train", *TUNED, "--name", name, "--eval_every", 2, "--batch_split", 2)
        assert_same(metrics(folder, INSTALLED[0]), metrics(folder, name))
        flags = ("--model", "VTT-T/8", "--weights", f"runs/{name}", "--oracle", "oracle.npz", "--precision", "float64")
        run(f"{name}.predict", *flags, "--output", f"drawn_{name}", "images/test")
        drawn[name] = np.load(folder / f"drawn_{name}/maps.npz")["maps"]
        np.testing.assert_allclose(drawn[name], drawn[INSTALLED[0]], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "reward"), [("depth", "rmse"), ("panoptic", "pq")])
def test_depth_and_segmentations_are_tuned(run, folder, target, reward):
    """With more categories of the oracle than the images have."""
    make_maps(folder, target)
    config = find_model(f"UViM-T/8-{target}").config()
    write_weights(folder / "other.npz", random_arrays(config), config)
    flags = ("--reward", reward, "--oracle", "other.npz", "--dataset", f"maps:{target}", "--eval_every", 2)
    for name in INSTALLED:
        run(f"{name}.train", *TUNED, *flags, "--name", name)
        assert_same(metrics(folder, INSTALLED[0]), metrics(folder, name))
    told = {key for line in metrics(folder, INSTALLED[0]) for key in line}
    assert {"train/reward", f"val/{reward}", f"test/{reward}"} <= told


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_a_killed_run_goes_on_in_another_engine(name, server, folder):
    """It draws the codes that it would have drawn, and keeps to its oracle."""
    flags = (*TUNED, "--eval_every", 0, "--checkpoint_every", 1, "--batch_split", 2)
    assert_killed_goes_on_elsewhere(name, server, folder, *flags, steps=30)


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_devices_and_processes_draw_and_learn_what_one_does(train, folder, name):
    """Each judges the maps of its own images: in two processes, and on two devices in parts of a batch or in shards."""
    assert_alike_everywhere(train, folder, name, SPREAD, [CASES[name][0], ({"processes": 2}, ())])
    assert len({line["train/reward"] for line in metrics(folder, "one") if "train/reward" in line}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_bfloat16_is_rewarded_as_float32(train, folder, name):
    """For other codes, of which the mean is about as good."""
    rewards = []
    for precision in ("float32", "bfloat16"):
        train(name, precision, "--precision", precision, "--batch_split", 2, "--remat", base=SPREAD)
        rewards.append([line["train/reward"] for line in metrics(folder, precision) if "train/reward" in line])
    assert len(rewards[0]) == 4 and rewards[0] != rewards[1]
    np.testing.assert_allclose(rewards[1], rewards[0], rtol=0.02)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--oracle", ""), "--reward psnr is of maps of colorization; name with --oracle what makes them of codes"),
        (("--reward", "cider"), "--oracle makes maps of codes, and --reward cider is of texts; leave it out"),
        (("--reward", "rmse"), "--oracle oracle.npz makes maps of colorization; give --reward psnr, or another oracle"),
        (("--oracle", "depth.npz"), "--oracle depth.npz makes maps of depth; give --reward rmse, or another oracle"),
        (("--oracle", "codes.npz"), "--oracle codes.npz makes no codes of maps"),
        (("--reward", "rmse", "--oracle", "depth.npz"), "have no maps, and depth needs maps of depth"),
        (("--weights", "others.npz"), "is not the file whose codes the weights were trained to write; name that one"),
        (("--model", "UViM-T/8-colorization"), "trains models that write"),
        (("--prompt", "a"), "--prompt is of texts, and --reward psnr of maps; leave it out"),
        (("--vocabulary", "a"), "--vocabulary is of texts, and --reward psnr of maps; leave it out"),
        (("--maps_of", 3), "--maps_of belongs to the task coded"),
        (("--randaugment_layers", 2), "moves pixels and not their maps"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(folder, monkeypatch, flags, said):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as error:
        plan = Plan(parse(TrainConfig, [*map(str, (*TUNED, *flags))], "train", ""))
        plan.task.columns(plan, plan.splits["train"], True)
    assert said in str(error.value)
