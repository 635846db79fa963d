"""Runs of earlier versions as they were left: they go on, their weights and cards are read, reports show them.

Each folder of golden/ named here holds two runs of bit_pytorch with a model of some thousand parameters, by one command but for
--name: `whole` has ended, `stopped` was killed after a checkpoint. `run_of_0.1.0` is a plain run of version 0.1.0;
`run_before_tasks` was made when a recipe had a loss and no task yet, with moments, a moving average, frozen parameters,
smoothed labels and noise.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from test_resume import RUN

GOLDEN = ROOT / "tests" / "golden"
FLAGS = ("--dataset", "images", "--weights", "none", *RUN)
FURTHER = {
    "run_of_0.1.0": (),
    "run_before_tasks": ("--recipe", "augreg", "--train_only", "norm", "--ema", 0.9, "--label_smoothing", 0.1, "--base_lr", 0.01),
}  # fmt: skip
# How far weights may differ. Those with moments in bfloat16 by the rounding of one, 0.4 % of an update of 0.01.
BOUND = {"run_of_0.1.0": 2e-6, "run_before_tasks": 4e-5}


@pytest.fixture(params=[pytest.param("run_of_0.1.0", marks=pytest.mark.slow), "run_before_tasks"])
def version(request, tmp_path):
    """The name of an earlier version's runs; they lie in `tmp_path`, where their commands were given."""
    shutil.copytree(GOLDEN / "run_of_0.1.0" / "images", tmp_path / "images")
    for name in ("stopped", "whole"):
        shutil.copytree(GOLDEN / request.param / name, tmp_path / "runs" / name)
    return request.param


def lines(folder, name):
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_goes_on_and_ends_as_it_would_have(run, engine, version, tmp_path):
    """To float32's rounding, in every engine: the loss of the steps that were left, and the weights."""
    run(f"{engine.name}.train", "--name", "stopped", *FLAGS, *FURTHER[version], small=True)
    ours, theirs = (lines(tmp_path, name) for name in ("stopped", "whole"))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for found, expected in zip(ours, theirs):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"images_per_second"}:
            np.testing.assert_allclose(found[key], expected[key], rtol=2e-5, err_msg=key)
    with np.load(tmp_path / "runs/stopped/weights.npz") as a, np.load(tmp_path / "runs/whole/weights.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=BOUND[version], err_msg=name)


def test_a_finished_run_is_read(run, version, tmp_path):
    """Its weights by evaluate, with its own accuracy; the same by a report."""
    done = run("bit_pytorch.evaluate", "--weights", "runs/whole/weights.npz", "--dataset", "images", small=True)
    card = json.loads((tmp_path / "runs/whole/card.json").read_text())
    assert f"top-1 {card['accuracy']['test']:.2%}" in done.stdout
    run("common.report", "runs/whole", "--output", "report.md")
    assert f"{card['accuracy']['test']:.2%}" in (tmp_path / "report.md").read_text()
