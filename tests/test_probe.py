"""Few-shot probes and neighbours: against big_vision's formulas, and as a user runs them."""

import contextlib
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT
from golden.golden_params import image

from common import probe


def blobs(seed: int, count: int = 300, classes: int = 5, width: int = 16):
    """Features that tell most of the labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((classes, width)) * 0.7
    labels = rng.integers(classes, size=count).astype(np.int32)
    return (centres[labels] + rng.standard_normal((count, width))).astype(np.float32), labels


def original(x, y, x_test, y_test, classes, l2_penalty):
    """The closed form by eigenvalues, as `fewshot_lsr.py` describes it, in float64."""
    mean, std = x.mean(0, keepdims=True), x.std(0, keepdims=True) + 1e-5
    pad = lambda values: np.concatenate([(values - mean) / std, np.full((len(values), 1), 100.0)], 1)
    x, x_test, y = pad(x), pad(x_test), 2 * np.eye(classes)[y] - 1
    wide = len(x) < x.shape[1]
    eigenvalues, q = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    left, right = (x.T @ q, q.T @ y) if wide else (q, q.T @ (x.T @ y))
    return float(((x_test @ (left / (eigenvalues + l2_penalty) @ right)).argmax(1) == y_test).mean())


@pytest.mark.parametrize("shots", (1, 2, 25))  # fewer and more images than features
def test_the_probe_is_that_of_big_vision(shots):
    x, y = blobs(1)
    x_test, y_test = blobs(2)
    x, x_test = x.astype(np.float64), x_test.astype(np.float64)
    expected = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        chosen = np.concatenate([rng.permutation(np.where(y == number)[0])[:shots] for number in range(5)])
        expected.append(original(x[chosen], y[chosen], x_test, y_test, 5, 2.0**10))
    found = probe.few_shot(x, y, x_test, y_test, shots, 3)
    assert found == expected and len(set(found)) > 1


@pytest.mark.parametrize("penalty", (1024.0, 1.0))
@pytest.mark.parametrize("shots", (1, 2, 5, 10))
def test_the_probe_gives_the_accuracies_that_the_original_gave(penalty, shots, monkeypatch):
    monkeypatch.setattr(probe, "L2_PENALTY", penalty)
    golden = json.loads((ROOT / "tests/golden/siglip/fewshot_lsr.json").read_text())["outputs"]
    train, test = golden_blobs(3, 60, 81), golden_blobs(4, 200, 82)
    expected = [golden[f"accuracy, l2_reg {penalty}, seed {seed}, {shots} shots"]["data"][0] for seed in range(3)]
    right = np.rint(200 * np.array(expected))  # of 200 images; their parts are float32, divided in another way
    np.testing.assert_allclose(expected, right / 200, rtol=1e-7)
    np.testing.assert_array_equal(np.rint(200 * np.array(probe.few_shot(*train, *test, shots, 3))), right)


def golden_blobs(label_seed: int, count: int, seed: int):
    """(features [N, 12], labels [N]) of the golden case."""
    labels = np.random.RandomState(label_seed).randint(0, 4, count)
    features = image((count, 12), seed) + 0.5 * image((4, 12), 80)[labels]
    return features.astype(np.float32).astype(np.float64), labels


def claim_more(path) -> None:
    """An .npz whose header speaks of more numbers than follow."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("features.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(800))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command, in this process."""

    def run_command(*arguments, status: int = 0) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["probe", *map(str, arguments)])
        with contextlib.suppress(SystemExit) if status else contextlib.nullcontext():
            probe.main()
        said = capsys.readouterr()
        assert (said.err.startswith("error: ") and said.err.count("\n") == 1) if status else not said.err, said.err
        return said.out + said.err

    return run_command


def write(path, features, labels):
    np.savez(path, features=features, labels=labels)
    return path.name


def test_more_shots_tell_more_and_the_table_says_so(run, tmp_path):
    names = write(tmp_path / "a.npz", *blobs(1)), write(tmp_path / "b.npz", *blobs(2))
    found = json.loads(run(*names, "--json"))
    medians = [np.median(found[f"{shots}-shot"]) for shots in (1, 5, 10, 25)]
    assert 0.2 < medians[0] < medians[-1] and found["20 neighbours"][0] > 0.5
    assert "<-" in run(*names, "--shots", "2") and "neighbours" in run(*names, "--shots", "2")


def test_the_command_needs_no_framework(tmp_path):
    names = write(tmp_path / "a.npz", *blobs(1)), write(tmp_path / "b.npz", *blobs(2))
    script = "import runpy, sys; runpy.run_module('common.probe', run_name='__main__'); "
    script += "assert not {'torch', 'jax', 'tensorflow'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *names], check=False, cwd=tmp_path, text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and "1-shot" in done.stdout, done.stderr


def test_neighbours_by_hand():
    features, labels = np.array([[1.0, 0], [0, 1], [2, 0.1], [0.1, 3]]), np.array([0, 1, 0, 1])
    assert (
        probe.nearest_neighbours(features, labels, np.array([[9.0, 1], [1, 9], [9, 0]]), np.array([0, 1, 1]), 2)
        == 2 / 3
    )


@pytest.mark.parametrize(
    "other, words",
    [
        (lambda path: write(path, *blobs(2, width=8)), "of width 16 and"),
        (lambda path: write(path, blobs(2)[0], blobs(2)[1][:-1]), "expected [N, D]"),
        (lambda path: write(path, blobs(2)[0] * np.nan, blobs(2)[1]), "not finite"),
        (lambda path: (path.write_text("text"), path.name)[1], "holds no features"),
        (lambda path: path.name, "holds no features"),
        (lambda path: (os.mkfifo(path), path.name)[1], "holds no features and labels (it is a named pipe"),
        (lambda path: (path.symlink_to("/dev/zero"), path.name)[1], "holds no features and labels (it is a device"),
        (lambda path: (claim_more(path), path.name)[1], "declares 8,000,000,000,000 bytes at features"),
        (lambda path: (np.savez(path, logits=np.ones((2, 2))), path.name)[1], "holds no features"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(other, words, run, tmp_path):
    assert words in run(write(tmp_path / "a.npz", *blobs(1)), other(tmp_path / "b.npz"), status=2)


@pytest.mark.parametrize("flags", (("--shots", "0"), ("--seeds", "0"), ("--neighbours", "301"), ("--shots", "x")))
def test_wrong_flags_are_one_sentence(flags, run, tmp_path):
    run(write(tmp_path / "a.npz", *blobs(1)), write(tmp_path / "b.npz", *blobs(2)), *flags, status=2)
