"""A run of version 0.1.0 as it was left: it goes on, its weights and card are read, reports show it.

golden/run_of_0.1.0 holds two runs of bit_pytorch with a model of some thousand parameters, by one command but for --name: `whole`
has ended, `stopped` was killed after its checkpoint of step 3.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from test_resume import RUN

GOLDEN = ROOT / "tests" / "golden" / "run_of_0.1.0"
FLAGS = ("--dataset", "images", "--weights", "none", *RUN)


@pytest.fixture
def folder(tmp_path):
    """A folder in which the commands of 0.1.0 were given."""
    shutil.copytree(GOLDEN / "images", tmp_path / "images")
    for name in ("stopped", "whole"):
        shutil.copytree(GOLDEN / name, tmp_path / "runs" / name)
    return tmp_path


def lines(folder, name):
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_goes_on_and_ends_as_it_would_have(run, engine, folder):
    """To float32's rounding, in every engine: the loss of the steps that were left, and the weights."""
    run(f"{engine.name}.train", "--name", "stopped", *FLAGS, small=True)
    ours, theirs = (lines(folder, name) for name in ("stopped", "whole"))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for found, expected in zip(ours, theirs):
        for key in expected.keys() - {"images_per_second"}:
            np.testing.assert_allclose(found[key], expected[key], rtol=2e-5, err_msg=key)
    with np.load(folder / "runs/stopped/weights.npz") as a, np.load(folder / "runs/whole/weights.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=2e-6, err_msg=name)


def test_a_finished_run_is_read(run, folder):
    """Its weights by evaluate, with its own accuracy; the same by a report."""
    done = run("bit_pytorch.evaluate", "--weights", "runs/whole/weights.npz", "--dataset", "images", small=True)
    card = json.loads((folder / "runs/whole/card.json").read_text())
    assert f"top-1 {card['accuracy']['test']:.2%}" in done.stdout
    run("common.report", "runs/whole", "--output", "report.md")
    assert f"{card['accuracy']['test']:.2%}" in (folder / "report.md").read_text()
