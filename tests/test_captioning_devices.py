"""Models that write on several devices, in parts of a batch and in less precision, against the same run on one device at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines import INSTALLED
from jobs import make_pairs, metrics, places_of
from processes import ROOT
from test_image_text_runs import assert_same
from test_rewards import TUNED, of_cats

from common.evaluation.captioning import read_written
from common.weights import write_weights

# Texts of different lengths, in batches of which every device has a part; the last batches of the evaluation have padding.
FLAGS = ("--recipe", "cappa", "--model", "CapPa-T/8", "--weights", "none", "--dataset", "pairs", "--batch", 8, "--steps", 3,
         "--warmup_steps", 1, "--parallel", 0.5, "--masking_ratio", 0.5, "--precision", "float64", "--log_every", 1,
         "--batch_eval", 3, "--captions_of", 3, "--checkpoint_every", 0, "--workers", 1)  # fmt: skip
CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
LOGICAL = """
import runpy, sys
import tensorflow as tf
cpu, count = tf.config.list_physical_devices("CPU")[0], int(sys.argv.pop(1))
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
runpy.run_module("bit_tf2.train", run_name="__main__")
"""


@pytest.fixture
def train(server, tmp_path):
    """train(engine, name, *flags): a run about `pairs`, of several processes or devices."""
    make_pairs(tmp_path)

    def start(engine: str, name: str, *flags, base: tuple = FLAGS, processes: int = 1, devices: int = 1) -> None:
        flags = (*base, "--name", name, *flags)
        if engine == "bit_tf2" and devices > 1:
            command = [sys.executable, "-c", LOGICAL, str(devices), *map(str, flags)]
            subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | CPU | {"PYTHONPATH": str(ROOT)})
            return
        variables = CPU | ({"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} if devices > 1 else {})
        places = places_of(processes) if processes > 1 else [{}]
        started = [server(engine).start(f"{engine}.train", flags, tmp_path, variables | place) for place in places]
        assert all(process.wait() == 0 for process in started), "".join(process.output for process in started)

    return start


def assert_equal(folder: Path, name: str, other: str) -> None:
    """The same losses, likelihoods and texts, and parameters."""
    assert_same(metrics(folder, name), metrics(folder, other))
    ours, theirs = (folder / "runs" / one for one in (name, other))
    assert read_written(ours / "captions.json") == read_written(theirs / "captions.json")
    assert_close_weights(ours, theirs)


def assert_close_weights(ours: Path, theirs: Path) -> None:
    """Two runs have left the same parameters within 1e-9."""
    with np.load(ours / "weights.npz") as found, np.load(theirs / "weights.npz") as expected:
        assert found.files == expected.files
        for key in found.files:
            if key.endswith("key/bias"):
                continue  # its gradient is nothing but rounding
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-9, atol=1e-9, err_msg=key)


def test_two_processes_write_as_one(train, tmp_path):
    """In parts of a batch as at once: a text counts as much as another one, however many tokens it has."""
    name = INSTALLED[0]
    train(name, "one")
    train(name, "two", "--batch_split", 2, "--remat", processes=2)
    assert_equal(tmp_path, "two", "one")


CASES = {
    "bit_pytorch": [("--batch_split", 2, "--shard_parameters")],
    "bit_jax": [("--batch_split", 2, "--remat"), ("--shard_parameters",)],
    "bit_tf2": [("--batch_split", 2), ("--remat",)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_two_and_four_devices_write_as_one(train, tmp_path, name):
    """PyTorch has a process for each, with shards of the parameters; the others have devices of one process."""
    train(name, "one")
    for count, flags in zip((2, 4), CASES[name]):
        which = "processes" if name == "bit_pytorch" else "devices"
        train(name, f"on{count}", *flags, **{which: count})
        assert_equal(tmp_path, f"on{count}", "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "bit_tf2"])
def test_shards_write_before_they_learn(train, tmp_path, name):
    """Tuning by rewards begins with what the model itself writes, which is no forward pass of the whole of it."""
    write_weights(tmp_path / "w.npz", *of_cats())
    train(name, "one", base=TUNED)
    places = {"processes": 2} if name == "bit_pytorch" else {"devices": 4}
    train(name, "shards", "--shard_parameters", "--remat", base=TUNED, **places)
    assert any(line.get("train/reward", 0) > 0 for line in metrics(tmp_path, "one"))
    assert_equal(tmp_path, "shards", "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTALLED)
def test_bfloat16_learns_as_float32_does(train, tmp_path, name):
    """The losses of the steps within one part in a hundred."""
    losses = []
    for precision in ("float32", "bfloat16"):
        train(name, precision, "--precision", precision, "--batch_split", 2, "--remat")
        losses.append([line["train/loss"] for line in metrics(tmp_path, precision) if "train/loss" in line])
    assert len(losses[0]) == 3 and losses[0][0] > losses[0][-1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
