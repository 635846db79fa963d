"""Random damage to weights files and checkpoints: no crash, no hang, no memory beyond twice the file and a constant."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from fuzzer import MINI
from golden_cases import GOLDEN

from common.runs import checkpoint
from common.weights import write_weights


@pytest.fixture
def valid(tmp_path):
    """A folder with one valid file of each format."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype("f4") for name, shape in MINI.parameter_shapes().items()}
    for suffix in ("npz", "h5"):
        write_weights(tmp_path / f"a.{suffix}", arrays, MINI)
    with open(tmp_path / "a.safetensors", "wb") as file:
        state = {f"{part}/{name}": array for part in ("model", "optimizer") for name, array in arrays.items()}
        checkpoint.write(file, 7, state, {"seed": 0, "config": {"name": "a"}, "losses": [0.1]})
    for ending, name in (("index", "a.index"), ("data-00000-of-00001", "a.data-00000-of-00001")):
        for copy in (name, f"damaged{name[1:]}"):
            shutil.copy(GOLDEN / "coyo_vit" / f"tiny_checkpoint.{ending}", tmp_path / copy)
    return tmp_path


def fuzz(folder, seconds: float, iterations: int, seed: int) -> dict:
    arguments = [sys.executable, str(ROOT / "tests" / "fuzzer.py"), *map(str, (folder, seconds, iterations, seed))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"seed {seed}, {last}: {done.returncode}, {done.stderr[-2000:]}"
    found = json.loads(last[0])
    print(found)
    for name, outcomes in found["outcomes"].items():
        assert outcomes["refused"] > 0, name
    return found


def test_some_hundred_damaged_files(valid):
    assert fuzz(valid, 60, 400, seed=0)["iterations"] == 399


@pytest.mark.slow
def test_a_minute_of_damaged_files(valid):
    assert fuzz(valid, 60, 10**9, seed=int.from_bytes(os.urandom(4)))["iterations"] > 1000
