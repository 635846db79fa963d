"""Runs with patches of a drawn size: stopped and continued in another engine, in two processes, and what they leave behind."""

import numpy as np
import pytest
from engines import INSTALLED, Engine
from jobs import metrics, places_of

from common.config import EvaluateConfig, TrainConfig
from common.models import find_model
from common.models.patches import Patches
from common.runs.inference import Evaluation
from common.runs.run import Run
from common.system.errors import UserError
from common.weights.source import read_model

FLAGS = {
    "dataset": "cifar10-sample", "model": "ViT-mu/16", "weights": "none", "recipe": "vit_s16_i1k", "precision": "float64",
    "batch": 8, "batch_split": 2, "steps": 8, "warmup_steps": 1, "base_lr": 0.01, "crop": 32, "patch_size": 8, "patch_sizes": "4,8,16:2",
    "examples_per_class": 4, "eval_every": "0", "checkpoint_every": 3, "log_every": 1, "ema": 0.5, "workers": 1,
    "batch_eval": 250,
}  # fmt: skip


class Stopped(Exception):
    """What ends a run in the middle."""


def train(package: str, folder, monkeypatch=None, **flags) -> list[float]:
    """The losses of a run; with `monkeypatch`, until a fault before its sixth update."""
    engine, config = Engine(package), TrainConfig(**FLAGS | {"name": "a", "logdir": str(folder / "runs")} | flags)
    run = Run(config, package)
    if monkeypatch:
        right = engine.loop.train_step

        def broken(*arguments, step: int):
            if step == 5:
                raise Stopped
            return right(*arguments, step=step)

        with monkeypatch.context() as patched, pytest.raises(Stopped):
            patched.setattr(engine.loop, "train_step", broken)
            engine.loop.main(run)
        return []
    engine.loop.main(run)
    engine.forget_compiled()
    return [line["train/loss"] for line in metrics(folder, config.name) if "train/loss" in line]


ORDERS = [(INSTALLED[0], INSTALLED[0]), *((INSTALLED[0], name) for name in INSTALLED[1:])]
ORDERS = [pytest.param(*pair, marks=() if pair[0] == pair[1] else pytest.mark.slow) for pair in ORDERS]


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_a_run_goes_on_with_the_sizes_of_its_steps(first, second, monkeypatch, tmp_path):
    """After the checkpoint of step 3, in the same engine or in another one; and its weights are flexible."""
    whole = train(INSTALLED[0], tmp_path, name="whole")
    train(first, tmp_path, monkeypatch)
    with pytest.raises(UserError, match="patch_sizes"):
        train(first, tmp_path, patch_sizes="4,8")
    losses = train(second, tmp_path)
    assert len(losses) == len(whole) == 8
    np.testing.assert_allclose(losses, whole, rtol=1e-9)
    found, expected = (read_model(tmp_path / "runs" / name) for name in ("a", "whole"))
    assert found.config == find_model("ViT-mu/16").config(10).at((32, 32)).with_side(8).flexible()
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


def test_evaluation_resizes_once(tmp_path, monkeypatch):
    """Every batch is computed by a ViT with patches of one size: what is flexible never reaches an engine."""
    train(INSTALLED[0], tmp_path, steps=2, checkpoint_every=0)
    told = metrics(tmp_path, "a")[-1]
    weights = str(tmp_path / "runs" / "a")
    flags = {
        "model": "ViT-mu/16",
        "weights": weights,
        "dataset": "cifar10-sample",
        "precision": "float64",
        "batch_eval": 100,
    }
    found = {}
    for side in (None, 8, 16):
        job = Evaluation(EvaluateConfig(**flags, patch_size=side))
        assert job.model_config.kernel_size is None
        monkeypatch.setattr(Patches, "at_patch", lambda self, size: self if size is None else pytest.fail("resized"))
        engine = Engine(INSTALLED[0])
        model = engine.inference.build_once(
            job, engine.devices.FirstDevice() if hasattr(engine.devices, "FirstDevice") else engine.devices.Devices()
        )
        found[side] = engine.evaluate(model, job.prepared(job.eval_batches(job.splits["test"])))
        monkeypatch.undo()
    assert found[None] == found[8] != found[16]
    assert found[8]["loss"] == pytest.approx(told["test/loss"], rel=1e-6)


def test_a_run_with_patches_of_another_size_is_read_with_any(tmp_path):
    """Trained for 4 pixels as a model that is published for 16, and neither flexible."""
    train(INSTALLED[0], tmp_path, steps=2, checkpoint_every=0, patch_size=4, patch_sizes=None)
    flags = {"model": "ViT-mu/16", "weights": str(tmp_path / "runs" / "a"), "dataset": "cifar10-sample"}
    for side in (4, 8, 16):
        assert Evaluation(EvaluateConfig(**flags, patch_size=side)).model_config.patch_size == (side, side)
    with pytest.raises(UserError, match=r"patch_size \(4, 4\) instead of \(16, 16\)\); .*, or give --patch_size"):
        Evaluation(EvaluateConfig(**flags))


@pytest.mark.slow
@pytest.mark.parametrize("flag", ((), ("--shard_parameters",)))
@pytest.mark.parametrize("name", INSTALLED)
def test_two_processes_train_as_one(name, server, run, tmp_path, flag):
    if flag and name == "bit_tf2":
        pytest.skip("TensorFlow keeps all parameters on every device")
    flags = [word for key, value in FLAGS.items() for word in (f"--{key}", value)]
    run(f"{name}.train", *flags, "--name", "one")
    variables = {"CUDA_VISIBLE_DEVICES": ""}
    started = [
        server(name).start(f"{name}.train", (*flags, "--name", "two", *flag), tmp_path, variables | place)
        for place in places_of(2)
    ]
    assert [process.wait(300) for process in started] == [0, 0], started[0].output
    one, two = (metrics(tmp_path, which) for which in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        losses = [line[key] for line in (a, b) for key in ("train/loss", "test/loss") if key in line]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
